use std::sync::Arc;

use lorb_emulate::Order;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::selfcheck::CHECKS;
use lorb_engine::device::cuda::{Driver, measure};

use crate::devices::devices;
use crate::emulated::Emulated;

#[test]
fn a_sound_device_passes() {
    let cpu = Cpu::new(Isa::detect().unwrap());
    for cuda in devices() {
        for (name, check) in CHECKS {
            let off = check(&cuda, &cpu).unwrap();
            // Exactly the CPU's result would mean that nothing was compared.
            assert!(off > 0.0 && off <= 1.0, "{name} in {:?}: {off}", cuda.precision());
        }
    }
}

#[test]
fn rates_are_measured() {
    let driver: Arc<dyn Driver> = Arc::new(Emulated::new(Order::Forward));
    assert!(measure::copy_rate(&driver, 1 << 20).unwrap() > 0.0);
    let latency = measure::latency(&driver).unwrap();
    assert!(!latency.queued.is_zero() && !latency.alone.is_zero());
}
