// What the forms of attention share: the parameters, and where a head of a sequence lies.
#pragma once

#include "common/pack.cuh"
#include "common/reduce.cuh"

// T is float or bf16. H = heads * head_size; a row of an operand holds the H columns of its heads somewhere
// in its stride.
struct Attention {
    const void* q;      // [queries, H] of T, rows q_stride apart
    const void* k;      // [keys, H] of T, rows kv_stride apart
    const void* v;      // as k
    void* out;          // [queries, H] of T
    float* log_sum_exp; // [queries, heads]: of the scaled scores
    const void* dy;     // backward only, as out
    void* dq;           // backward only: [queries, H] of T, rows dq_stride apart
    void* dk;           // backward only: [keys, H] of T, rows dkv_stride apart
    void* dv;           // as dk
    float* scratch;     // backward only, see there
    const uint32_t* query_offsets; // sequence s has the rows from offsets[s] to offsets[s + 1]
    const uint32_t* key_offsets;
    Rows offsets; // of the offsets: one more than sequences
    uint32_t q_stride, kv_stride, dq_stride, dkv_stride;
    uint32_t heads;
    uint32_t head_size; // at most ATTENTION_HEAD_SIZE
    float scale;        // 1 / sqrt(head_size)
    uint32_t packs;     // whether the heads of all operands start at 16 bytes, and end there
};

// The probability of a score whose log-sum-exp was computed before. The scaled score is rounded as it was then: fused
// with the subtraction it would not be, and of scores of some hundreds that would show.
__device__ __forceinline__ float probability_of(float product, float scale, float log_sum_exp) {
    return expf(__fmul_rn(product, scale) - log_sum_exp);
}

// Rows of a sequence.
struct Span {
    uint32_t first, count;
};

__device__ __forceinline__ Span span(const uint32_t* offsets, uint32_t sequence) {
    return {offsets[sequence], offsets[sequence + 1] - offsets[sequence]};
}

// Head number `item % heads` of sequence `item / heads`.
struct Head {
    uint32_t sequence, number;
    bool live; // whether there is such a sequence

    __device__ Head(const Attention& p, uint32_t item)
        : sequence(item / p.heads), number(item % p.heads), live(sequence + 1 < p.offsets.count()) {}
};

// The first element of a head in a row.
template <class T>
__device__ __forceinline__ const T* head_row(const void* matrix, uint32_t row, uint32_t stride, uint32_t column) {
    return static_cast<const T*>(matrix) + static_cast<size_t>(row) * stride + column;
}

template <class T>
__device__ __forceinline__ T* head_row(void* matrix, uint32_t row, uint32_t stride, uint32_t column) {
    return static_cast<T*>(matrix) + static_cast<size_t>(row) * stride + column;
}

// Columns of a head that are a lane's, where a warp has a row: lane + 32 i.
constexpr uint32_t PER_LANE = ATTENTION_HEAD_SIZE / WARP;

// Writes a warp's row.
template <class T>
__device__ __forceinline__ void store_row(T* to, const float (&row)[PER_LANE], float scale, uint32_t size) {
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        uint32_t column = threadIdx.x % WARP + WARP * i;
        if (column < size) to[column] = from_float<T>(row[i] * scale);
    }
}

// The dot product of the first `n` elements, by 16 bytes.
template <class T>
__device__ __forceinline__ float dot_packs(const T* a, const T* b, uint32_t n) {
    float sum = 0;
#pragma unroll 4
    for (uint32_t i = 0; i < n; i += WIDE<T>) {
        Pack<T, WIDE<T>> x = load_pack<WIDE<T>>(a + i), y = load_pack<WIDE<T>>(b + i);
#pragma unroll
        for (uint32_t j = 0; j < WIDE<T>; j++) sum += to_float(x.at[j]) * to_float(y.at[j]);
    }
    return sum;
}
