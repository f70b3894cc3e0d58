//! Runs the kernels of kernels/emulate/planted.

use bytemuck::{Pod, bytes_of};
use lorb_emulate::{Device, Launch, Order};

pub const ORDERS: [Order; 6] =
    [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2), Order::Random(3), Order::Random(4)];

/// A device, and memory that its kernels may use.
pub struct Memory<'a> {
    device: Device,
    buffers: Vec<&'a mut [f32]>,
}

impl<'a> Memory<'a> {
    pub fn new(buffers: Vec<&'a mut [f32]>) -> Memory<'a> {
        let device = Device::new();
        for buffer in &buffers {
            device.add_memory(buffer.as_ptr() as u64, size_of_val(*buffer));
        }
        Memory { device, buffers }
    }

    pub fn address(&mut self, buffer: usize) -> u64 {
        self.buffers[buffer].as_mut_ptr() as u64
    }

    pub fn launch(
        &mut self,
        kernel: &str,
        blocks: u32,
        threads: u32,
        shared_bytes: u32,
        parameters: &impl Pod,
        order: Order,
    ) -> Result<(), String> {
        let parameters = bytes_of(parameters);
        let grid = [blocks, 1, 1];
        // SAFETY: the buffers are borrowed for as long as the device lives.
        unsafe { self.device.launch(Launch { kernel, grid, threads, shared_bytes, parameters, order }) }
    }
}

/// Requires an error that has all these texts.
#[track_caller]
pub fn expect(kernel: &str, order: Order, result: Result<(), String>, texts: &[&str]) {
    let error = result.expect_err(&format!("{kernel}, {order:?}: nothing found"));
    println!("{kernel}, {order:?}: {error}");
    for text in texts {
        assert!(error.contains(text), "{kernel}, {order:?}: {text} is not in: {error}");
    }
}
