//! How the driver is asked to describe matrices.

use std::ffi::c_void;

use bytemuck::Zeroable;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use super::super::driver::{Boxes, TensorMap};
use super::call::check;
use crate::Result;

const _: () = assert!(size_of::<TensorMap>() == size_of::<CUtensorMap>());
const _: () = assert!(align_of::<TensorMap>() == align_of::<CUtensorMap>());

/// Three dimensions of bf16: columns, rows, matrices.
pub fn encode(boxes: &Boxes) -> Result<TensorMap> {
    let &Boxes { address, columns, rows, matrices, stride, box_rows } = boxes;
    let sizes = [columns, rows, matrices].map(u64::from);
    let row_bytes = 2 * u64::from(stride);
    let strides = [row_bytes, row_bytes * u64::from(rows)];
    let box_sizes = [Boxes::COLUMNS, box_rows, 1];
    let every_element = [1; 3];
    let mut map = TensorMap::zeroed();
    // SAFETY: the map has the size and the alignment that the driver writes; the arrays have as many elements as
    // there are dimensions, and one less for the strides. The address is only written down.
    let encoded = unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast::<CUtensorMap>(),
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            sizes.len() as u32,
            address.0 as *mut c_void,
            sizes.as_ptr(),
            strides.as_ptr(),
            box_sizes.as_ptr(),
            every_element.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(format_args!("cuTensorMapEncodeTiled of {boxes:?}"), encoded)?;
    Ok(map)
}
