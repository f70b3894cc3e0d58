//! Runs the kernels of kernels/emulate/planted.

use bytemuck::{Pod, bytes_of, cast_slice, cast_slice_mut};
use lorb_emulate::{Device, Launch, Order};

pub const ORDERS: [Order; 6] =
    [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2), Order::Random(3), Order::Random(4)];

/// A device, and memory that its kernels may use.
pub struct Memory {
    device: Device,
    /// Aligned to 16 bytes, and how many bytes are in use.
    buffers: Vec<(Vec<u128>, usize)>,
}

/// One run of a kernel.
#[derive(Clone, Copy)]
pub struct Shape {
    pub blocks: u32,
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Memory {
    pub fn new() -> Memory {
        Memory { device: Device::new(), buffers: Vec::new() }
    }

    /// A buffer with these values; its address.
    pub fn add<T: Pod>(&mut self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let mut buffer = vec![0u128; bytes.div_ceil(16)];
        cast_slice_mut::<u128, u8>(&mut buffer)[..bytes].copy_from_slice(cast_slice(values));
        let at = buffer.as_mut_ptr() as u64;
        self.device.add_memory(at, bytes);
        self.buffers.push((buffer, bytes));
        at
    }

    /// Tells the device that the host wrote there.
    pub fn written(&self, at: u64, bytes: usize) {
        self.device.memory_written(at, bytes);
    }

    /// What the buffer that was added as number `buffer` holds.
    pub fn values<T: Pod>(&self, buffer: usize) -> &[T] {
        let (buffer, bytes) = &self.buffers[buffer];
        cast_slice(&cast_slice::<u128, u8>(buffer)[..*bytes])
    }

    pub fn launch(
        &mut self,
        kernel: &str,
        shape: Shape,
        parameters: &impl Pod,
        order: Order,
    ) -> Result<(), String> {
        let Shape { blocks, threads, shared_bytes } = shape;
        let parameters = bytes_of(parameters);
        let grid = [blocks, 1, 1];
        // SAFETY: the buffers live as long as the device, and nobody else has them meanwhile.
        unsafe { self.device.launch(Launch { kernel, grid, threads, shared_bytes, parameters, order }) }
    }
}

/// Requires an error that has all these texts, whatever the order.
#[track_caller]
pub fn found<T>(kernel: &str, run: impl Fn(&str, Order) -> Result<T, String>, texts: &[&str]) {
    for order in ORDERS {
        let Err(error) = run(kernel, order) else { panic!("{kernel}, {order:?}: nothing found") };
        println!("{kernel}, {order:?}: {error}");
        for text in texts {
            assert!(error.contains(text), "{kernel}, {order:?}: {text} is not in: {error}");
        }
    }
}
