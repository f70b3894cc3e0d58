// Sums of two matrices.

#include "common/bf16.cuh"

struct Add {
    const void* a; // [rows, columns]
    const void* b;
    void* out; // [rows, columns], without gaps
    Rows rows;
    uint32_t columns;
    uint32_t a_stride, b_stride;
    uint32_t unused;
};

template <class T>
__device__ void add(const Add& p) {
    uint32_t row = blockIdx.x, column = blockIdx.y * ELEMENTWISE_THREADS + threadIdx.x;
    if (column >= p.columns || row >= p.rows.count()) return;
    float a = to_float(static_cast<const T*>(p.a)[static_cast<size_t>(row) * p.a_stride + column]);
    float b = to_float(static_cast<const T*>(p.b)[static_cast<size_t>(row) * p.b_stride + column]);
    static_cast<T*>(p.out)[static_cast<size_t>(row) * p.columns + column] = from_float<T>(a + b);
}

KERNEL(add_f32, Add, ELEMENTWISE_THREADS) { add<float>(p); }
KERNEL(add_bf16, Add, ELEMENTWISE_THREADS) { add<bf16>(p); }
