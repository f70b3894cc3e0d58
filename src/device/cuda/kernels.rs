//! The typed table of all kernels: what each is called in the binary, how many threads its blocks have, and
//! which struct it takes. A driver resolves each name once, when it loads them.

use std::marker::PhantomData;

use super::add::AddParameters;
use super::tiles;
use crate::ops::adamw::cuda::AdamwParameters;
use crate::ops::attention::cuda::AttentionParameters;
use crate::ops::correlation::cuda::CorrelationParameters;
use crate::ops::embedding::cuda::EmbeddingParameters;
use crate::ops::gather_rows::cuda::{GatherRowsParameters, ScatterRowsParameters};
use crate::ops::layer_norm::cuda::LayerNormParameters;
use crate::ops::lora_linear::cuda::{
    GemmParameters, HopperParameters, LoraGradientParameters, LoraOperandsParameters,
};
use crate::ops::mwer::cuda::{MwerParameters, MwerSumParameters};
use crate::ops::score_head::cuda::{ClassifierParameters, PoolerParameters};

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
    EMBEDDING_F32 = "embedding_f32", EmbeddingParameters, tiles::LAYER_NORM_THREADS;
    EMBEDDING_BF16 = "embedding_bf16", EmbeddingParameters, tiles::LAYER_NORM_THREADS;
    GATHER_ROWS = "gather_rows", GatherRowsParameters, tiles::GATHER_ROWS_THREADS;
    SCATTER_ROWS_F32 = "scatter_rows_f32", ScatterRowsParameters, tiles::GATHER_ROWS_THREADS;
    SCATTER_ROWS_BF16 = "scatter_rows_bf16", ScatterRowsParameters, tiles::GATHER_ROWS_THREADS;
    POOLER_F32 = "pooler_f32", PoolerParameters, tiles::GEMM_THREADS;
    POOLER_BF16 = "pooler_bf16", PoolerParameters, tiles::GEMM_THREADS;
    POOLER_BACKWARD_F32 = "pooler_backward_f32", PoolerParameters, tiles::GEMM_THREADS;
    POOLER_BACKWARD_BF16 = "pooler_backward_bf16", PoolerParameters, tiles::GEMM_THREADS;
    POOLER_GRADIENT_F32 = "pooler_gradient_f32", PoolerParameters, tiles::GEMM_GROUP_THREADS;
    POOLER_GRADIENT_BF16 = "pooler_gradient_bf16", PoolerParameters, tiles::GEMM_GROUP_THREADS;
    CLASSIFIER = "classifier", ClassifierParameters, tiles::CLASSIFIER_ROWS * 32;
    CLASSIFIER_BACKWARD = "classifier_backward", ClassifierParameters, tiles::COLUMN_SUM_THREADS;
    MWER = "mwer", MwerParameters, tiles::MWER_THREADS;
    MWER_SUM = "mwer_sum", MwerSumParameters, tiles::MWER_THREADS;
    CORRELATION_STANDARDISE = "correlation_standardise", CorrelationParameters, tiles::COLUMN_SUM_THREADS;
    CORRELATION_PRODUCT = "correlation_product", CorrelationParameters, tiles::GEMM_THREADS;
    CORRELATION_APPLY = "correlation_apply", CorrelationParameters, tiles::GEMM_THREADS;
    CORRELATION_GRADIENT = "correlation_gradient", CorrelationParameters, tiles::COLUMN_SUM_THREADS;
    ADAMW_NORM = "adamw_norm", AdamwParameters, tiles::ADAMW_THREADS;
    ADAMW_UPDATE = "adamw_update", AdamwParameters, tiles::ADAMW_THREADS;
    LAYER_NORM_F32 = "layer_norm_f32", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LAYER_NORM_BF16 = "layer_norm_bf16", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LAYER_NORM_BACKWARD_F32 = "layer_norm_backward_f32", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    LAYER_NORM_BACKWARD_BF16 = "layer_norm_backward_bf16", LayerNormParameters, tiles::LAYER_NORM_THREADS;
    ATTENTION_F32 = "attention_f32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_BF16 = "attention_bf16", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_DQ_F32 = "attention_dq_f32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_DQ_BF16 = "attention_dq_bf16", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_DKV_F32 = "attention_dkv_f32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_DKV_BF16 = "attention_dkv_bf16", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_MMA_32 = "attention_mma_32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_MMA_64 = "attention_mma_64", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_MMA_BACKWARD_32 = "attention_mma_backward_32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_MMA_BACKWARD_64 = "attention_mma_backward_64", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_CLS_F32 = "attention_cls_f32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_CLS_BF16 = "attention_cls_bf16", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_CLS_BACKWARD_F32 = "attention_cls_backward_f32", AttentionParameters, tiles::ATTENTION_THREADS;
    ATTENTION_CLS_BACKWARD_BF16 = "attention_cls_backward_bf16", AttentionParameters, tiles::ATTENTION_THREADS;
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
    LINEAR_WGMMA_BROAD = "linear_wgmma_broad", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_WGMMA_FUSED_BROAD = "linear_wgmma_fused_broad", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DX_WGMMA_BROAD = "linear_dx_wgmma_broad", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DX_WGMMA_FUSED_BROAD = "linear_dx_wgmma_fused_broad", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_WGMMA_WIDE = "linear_wgmma_wide", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_WGMMA_NARROW = "linear_wgmma_narrow", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_WGMMA_FUSED_WIDE = "linear_wgmma_fused_wide", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_WGMMA_FUSED_NARROW = "linear_wgmma_fused_narrow", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DX_WGMMA_WIDE = "linear_dx_wgmma_wide", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DX_WGMMA_NARROW = "linear_dx_wgmma_narrow", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DX_WGMMA_FUSED_WIDE = "linear_dx_wgmma_fused_wide", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DX_WGMMA_FUSED_NARROW = "linear_dx_wgmma_fused_narrow", HopperParameters, tiles::HOPPER_THREADS;
    LINEAR_DOWN = "linear_down", GemmParameters, tiles::DOWN_THREADS;
    LINEAR_DOWN_MASKED = "linear_down_masked", GemmParameters, tiles::DOWN_THREADS;
    LORA_OPERANDS_F32 = "lora_operands_f32", LoraOperandsParameters, tiles::ELEMENTWISE_THREADS;
    LORA_OPERANDS_BF16 = "lora_operands_bf16", LoraOperandsParameters, tiles::ELEMENTWISE_THREADS;
    LORA_GRADIENT_F32 = "lora_gradient_f32", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_BF16 = "lora_gradient_bf16", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_MASKED_F32 = "lora_gradient_masked_f32", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_MASKED_BF16 = "lora_gradient_masked_bf16", LoraGradientParameters, tiles::REDUCE_THREADS;
    LORA_GRADIENT_SUM = "lora_gradient_sum", LoraGradientParameters, tiles::ELEMENTWISE_THREADS;
    ADD_F32 = "add_f32", AddParameters, tiles::ELEMENTWISE_THREADS;
    ADD_BF16 = "add_bf16", AddParameters, tiles::ELEMENTWISE_THREADS;
}
