use std::sync::Arc;

use bytemuck::Zeroable;
use lorb_emulate::Order;
use lorb_engine::device::cuda::{Address, Driver, Launch, kernels};
use lorb_engine::ops::layer_norm::cuda::LayerNormParameters;

use crate::emulated::Emulated;

fn read(driver: &dyn Driver, at: Address) -> [u8; 4] {
    let mut bytes = [0; 4];
    // SAFETY: every block below has more.
    unsafe { driver.read(at, &mut bytes) }.unwrap();
    bytes
}

#[test]
fn a_graph_does_its_work_when_it_is_launched_and_each_time() {
    let driver: Arc<dyn Driver> = Arc::new(Emulated::new(Order::Forward));
    let (a, b) = (driver.allocate(256).unwrap(), driver.allocate(256).unwrap());
    // SAFETY: the blocks have 256 bytes, and live through all of this.
    unsafe {
        driver.write(a, &[1; 4]).unwrap();
        driver.fill(b, 2, 4).unwrap();
        driver.begin_capture().unwrap();
        let mut data = [3; 4];
        driver.write(a, &data).unwrap();
        data.fill(9);
        driver.copy(b, a, 4).unwrap();
        driver.fill(a, 4, 4).unwrap();
        let graph = driver.end_capture().unwrap();
        assert_eq!((read(&*driver, a), read(&*driver, b)), ([1; 4], [2; 4]));
        for _ in 0..2 {
            driver.fill(b, 2, 4).unwrap();
            graph.launch().unwrap();
            assert_eq!((read(&*driver, a), read(&*driver, b)), ([4; 4], [3; 4]));
        }
        driver.free(a, 256);
        driver.free(b, 256);
    }
}

#[test]
fn what_a_captured_kernel_does_wrong_shows_at_the_launch() {
    let driver = Emulated::new(Order::Forward);
    let parameters = LayerNormParameters::zeroed();
    let launch = Launch {
        kernel: kernels::LAYER_NORM_F32.id(),
        grid: [1, 1, 1],
        shared_bytes: 0,
        parameters: &bytemuck::bytes_of(&parameters)[8..],
    };
    driver.begin_capture().unwrap();
    // SAFETY: the emulator refuses parameters of a wrong size.
    unsafe { driver.launch(launch) }.unwrap();
    let graph = driver.end_capture().unwrap();
    // SAFETY: as above.
    let error = unsafe { graph.launch() }.unwrap_err().to_string();
    assert!(error.starts_with("layer_norm_f32, grid 1 x 1 x 1, 128 threads, 0 bytes"), "{error}");
}

#[test]
fn a_fetch_has_what_was_there_when_it_was_asked_for() {
    let driver = Emulated::new(Order::Forward);
    let at = driver.allocate(256).unwrap();
    let mut found = [0; 4];
    // SAFETY: the block has 256 bytes.
    unsafe {
        driver.fill(at, 1, 4).unwrap();
        let fetch = driver.fetch(at, 4).unwrap();
        driver.fill(at, 2, 4).unwrap();
        fetch.wait(&mut found).unwrap();
        driver.begin_capture().unwrap();
        assert!(driver.fetch(at, 4).is_err());
        driver.end_capture().unwrap();
        driver.free(at, 256);
    }
    assert_eq!(found, [1; 4]);
}

#[test]
fn captures_neither_nest_nor_read() {
    let driver = Emulated::new(Order::Forward);
    assert!(driver.end_capture().is_err());
    driver.begin_capture().unwrap();
    assert!(driver.begin_capture().is_err());
    let at = driver.allocate(256).unwrap();
    // SAFETY: the block has as much.
    assert!(unsafe { driver.read(at, &mut [0; 4]) }.is_err());
    driver.end_capture().unwrap();
    // SAFETY: allocated above.
    unsafe { driver.free(at, 256) };
}
