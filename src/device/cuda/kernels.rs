//! The typed table of all kernels: what each is called in the binary, how many threads its blocks have, and
//! which struct it takes. A driver resolves each name once, when it loads them.

use std::marker::PhantomData;

use super::elementwise::ElementwiseParameters;
use super::tiles;
use crate::ops::layer_norm::cuda::LayerNormParameters;
use crate::ops::lora_linear::cuda::{GemmParameters, LoraGradientParameters, LoraOperandsParameters};

/// A kernel's number in [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub usize);

/// What a driver must know of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name in kernels/*.cu.
    pub name: &'static str,
    /// Threads of a block: also its launch bound.
    pub threads: u32,
    pub parameter_bytes: usize,
}

/// A kernel that takes the parameter struct `P`.
pub struct Kernel<P> {
    id: Id,
    parameters: PhantomData<fn(&P)>,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

impl<P> Kernel<P> {
    pub fn id(self) -> Id {
        self.id
    }
}

impl Id {
    pub fn entry(self) -> &'static Entry {
        &ALL[self.0]
    }
}

macro_rules! kernels {
    ($($constant:ident = $name:literal, $parameters:ty, $threads:expr;)*) => {
        /// The position of each kernel.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "named as the constants that number them")]
        enum Position { $($constant),* }

        $(
            #[doc = concat!("`", $name, "`")]
            pub const $constant: Kernel<$parameters> =
                Kernel { id: Id(Position::$constant as usize), parameters: PhantomData };
        )*

        /// All kernels, by number.
        pub const ALL: &[Entry] = &[$(Entry {
            name: $name,
            threads: $threads,
            parameter_bytes: size_of::<$parameters>(),
        }),*];
    };
}

kernels! {
    LAYER_NORM_F32 = "layer_norm_f32", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LAYER_NORM_BF16 = "layer_norm_bf16", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LAYER_NORM_BACKWARD_F32 = "layer_norm_backward_f32", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LAYER_NORM_BACKWARD_BF16 = "layer_norm_backward_bf16", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LINEAR_F32 = "linear_f32", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_BF16 = "linear_bf16", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_MASKED_F32 = "linear_masked_f32", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_MASKED_BF16 = "linear_masked_bf16", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_DX_F32 = "linear_dx_f32", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_DX_BF16 = "linear_dx_bf16", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_DX_MASKED_F32 = "linear_dx_masked_f32", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_DX_MASKED_BF16 = "linear_dx_masked_bf16", GemmParameters, tiles::SIMT_THREADS;
    LINEAR_MMA_LARGE = "linear_mma_large", GemmParameters, tiles::LARGE_THREADS;
    LINEAR_MMA_MEDIUM = "linear_mma_medium", GemmParameters, tiles::MEDIUM_THREADS;
    LINEAR_MMA_SMALL = "linear_mma_small", GemmParameters, tiles::SMALL_THREADS;
    LINEAR_FUSED_LARGE = "linear_fused_large", GemmParameters, tiles::LARGE_THREADS;
    LINEAR_FUSED_MEDIUM = "linear_fused_medium", GemmParameters, tiles::MEDIUM_THREADS;
    LINEAR_FUSED_SMALL = "linear_fused_small", GemmParameters, tiles::SMALL_THREADS;
    LINEAR_DX_MMA_LARGE = "linear_dx_mma_large", GemmParameters, tiles::LARGE_THREADS;
    LINEAR_DX_MMA_MEDIUM = "linear_dx_mma_medium", GemmParameters, tiles::MEDIUM_THREADS;
    LINEAR_DX_MMA_SMALL = "linear_dx_mma_small", GemmParameters, tiles::SMALL_THREADS;
    LINEAR_DX_FUSED_LARGE = "linear_dx_fused_large", GemmParameters, tiles::LARGE_THREADS;
    LINEAR_DX_FUSED_MEDIUM = "linear_dx_fused_medium", GemmParameters, tiles::MEDIUM_THREADS;
    LINEAR_DX_FUSED_SMALL = "linear_dx_fused_small", GemmParameters, tiles::SMALL_THREADS;
    LINEAR_DX_MASKED_MMA = "linear_dx_masked_mma", GemmParameters, tiles::MEDIUM_THREADS;
    LINEAR_DOWN = "linear_down", GemmParameters, tiles::DOWN_THREADS;
    LINEAR_DOWN_MASKED = "linear_down_masked", GemmParameters, tiles::DOWN_THREADS;
    LORA_OPERANDS_F32 = "lora_operands_f32", LoraOperandsParameters, tiles::ELEMENTWISE_THREADS;
    LORA_OPERANDS_BF16 = "lora_operands_bf16", LoraOperandsParameters, tiles::ELEMENTWISE_THREADS;
    LORA_GRADIENT_F32 = "lora_gradient_f32", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_BF16 = "lora_gradient_bf16", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_MASKED_F32 = "lora_gradient_masked_f32", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_MASKED_BF16 = "lora_gradient_masked_bf16", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_SUM = "lora_gradient_sum", LoraGradientParameters, tiles::ELEMENTWISE_THREADS;
    ADD_F32 = "add_f32", ElementwiseParameters, tiles::ELEMENTWISE_THREADS;
    ADD_BF16 = "add_bf16", ElementwiseParameters, tiles::ELEMENTWISE_THREADS;
    MULTIPLY_F32 = "multiply_f32", ElementwiseParameters, tiles::ELEMENTWISE_THREADS;
    MULTIPLY_BF16 = "multiply_bf16", ElementwiseParameters, tiles::ELEMENTWISE_THREADS;
}
