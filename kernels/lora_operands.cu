// The matrices A and B^T of a layer's modules out of the flat parameters, as the products take them: in the
// type of the activations, with the rank rounded up to a multiple of 16 by rows of zeros.

#include "common/bf16.cuh"

struct LoraOperand {
    uint32_t from, to; // elements: in the parameters, in the operands
    uint32_t rank, padded, columns;
    uint32_t unused;
};

struct LoraOperands {
    const float* parameters;
    void* operands;
    LoraOperand matrices[2 * LINEAR_MODULES]; // one per block in y
};

template <class T>
__device__ void pack(const LoraOperands& p) {
    const LoraOperand& m = p.matrices[blockIdx.y];
    uint32_t i = blockIdx.x * ELEMENTWISE_THREADS + threadIdx.x;
    if (i >= m.padded * m.columns) return;
    float x = i < m.rank * m.columns ? p.parameters[m.from + i] : 0.0f;
    static_cast<T*>(p.operands)[m.to + i] = from_float<T>(x);
}

KERNEL(lora_operands_f32, LoraOperands, ELEMENTWISE_THREADS) { pack<float>(p); }
KERNEL(lora_operands_bf16, LoraOperands, ELEMENTWISE_THREADS) { pack<bf16>(p); }
