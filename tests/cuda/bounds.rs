//! What would lead a kernel or a copy out of its memory is refused on the host.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lorb_engine::device::Memory;
use lorb_engine::ops::lora_linear::cuda::Slope;

use crate::devices::devices;

fn refused<T>(work: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn values_are_one_for_each_element() {
    for cuda in devices() {
        for (len, fits) in [(5, false), (6, true), (7, false), (700, false)] {
            let values = vec![1.0; len];
            assert_eq!(refused(|| cuda.upload_f32(&values, 2, 3)), !fits, "{len}");
            assert_eq!(refused(|| cuda.upload(&values, 2, 3)), !fits, "{len}");
            assert_eq!(refused(|| Slope::upload(&cuda, &values, 2, 3)), !fits, "{len}");
        }
    }
}
