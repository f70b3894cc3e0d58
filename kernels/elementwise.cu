// Sums and products of two matrices, element by element.

#include "common/bf16.cuh"

struct Elementwise {
    const void* a; // [rows, columns]
    const void* b;
    void* out; // [rows, columns], without gaps
    Rows rows;
    uint32_t columns;
    uint32_t a_stride, b_stride;
    uint32_t unused;
};

template <class T, bool SUM>
__device__ void combine(const Elementwise& p) {
    uint32_t row = blockIdx.x, column = blockIdx.y * ELEMENTWISE_THREADS + threadIdx.x;
    if (column >= p.columns || row >= p.rows.count()) return;
    float a = to_float(static_cast<const T*>(p.a)[static_cast<size_t>(row) * p.a_stride + column]);
    float b = to_float(static_cast<const T*>(p.b)[static_cast<size_t>(row) * p.b_stride + column]);
    static_cast<T*>(p.out)[static_cast<size_t>(row) * p.columns + column] = from_float<T>(SUM ? a + b : a * b);
}

KERNEL(add_f32, Elementwise, ELEMENTWISE_THREADS) { combine<float, true>(p); }
KERNEL(add_bf16, Elementwise, ELEMENTWISE_THREADS) { combine<bf16, true>(p); }
KERNEL(multiply_f32, Elementwise, ELEMENTWISE_THREADS) { combine<float, false>(p); }
KERNEL(multiply_bf16, Elementwise, ELEMENTWISE_THREADS) { combine<bf16, false>(p); }
