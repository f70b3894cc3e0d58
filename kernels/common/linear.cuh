// What all forms of the matrix product share: its parameters, which tile a block computes, and the epilogue.
#pragma once

#include "pack.cuh"
#include "philox.cuh"
#include "row_tile.cuh"

// The product of one module: left right [+ low_left low_right], n columns from `column` of the result on.
// The weights lie as W [n, k] (y = x W^T) or as W [k, n] (dx = dy W): each kernel says which.
struct Part {
    const void* left;      // [rows, k]
    const void* right;     // [n, k] or [k, n]
    void* low_left;        // S or U: [rows, rank]. The fused forms write it, where it is not null
    const void* low_right; // B^T or A: [rank, n], of one adapter after the other
    const void* side;      // fused forms: A or B^T, [16, k], of one adapter after the other
    const float* bias;     // [n], or null
    uint32_t left_stride, low_left_stride; // elements from row to row
    uint32_t k, n, rank;                   // rank: a multiple of 16, 0 for none
    uint32_t column, first_tile;           // the first tile in x of this part
    uint32_t target;                       // of dropout
    uint32_t right_by_adapter;             // 1: right holds one operand after the other as well
    uint32_t unused;
};

struct Gemm {
    Part parts[LINEAR_MODULES];
    void* out;                // [rows, …]
    void* slope;              // GELU' of the product, as Slope keeps it, where `out` has its elements; or null
    const void* factor;       // [rows, …]: such a slope, which multiplies the product; or null
    const void* addend;       // [rows, …]: added to the result; or null
    const float* scales;      // of S or U, by adapter; null where the product is neither
    const RowTile* row_tiles; // one per block in y; or null: all rows, of one adapter
    Rows rows;
    Dropout dropout;
    uint32_t low_ends[LINEAR_MODULES]; // with dropout: where the ranks of each target end in low_left
    uint32_t part_count;
    uint32_t out_stride, addend_stride, factor_stride;
    uint32_t gelu;   // 1: y = GELU(product)
    uint32_t stages; // of the pipeline, tensor cores only
    uint32_t unused;
};

// What a block computes: rows first..end and columns from `column` on of one part.
struct Place {
    uint32_t part, first, end, column, adapter;
};

template <uint32_t M, uint32_t N>
__device__ Place place(const Gemm& p) {
    RowTile rows = row_tile(p.row_tiles, p.rows, M);
    Place at = {0, rows.first, rows.end, 0, rows.adapter};
    while (at.part + 1 < p.part_count && blockIdx.x >= p.parts[at.part + 1].first_tile) at.part++;
    at.column = (blockIdx.x - p.parts[at.part].first_tile) * N;
    return at;
}

// The operand of an adapter among several of `rank` rows.
template <class T>
__device__ const T* of_adapter(const void* operands, uint32_t adapter, uint32_t rank, uint32_t columns) {
    return static_cast<const T*>(operands) + static_cast<size_t>(adapter) * rank * columns;
}

__device__ __forceinline__ float scale_of(const Gemm& p, uint32_t adapter) {
    return p.scales == nullptr ? 1.0f : p.scales[adapter];
}

// Phi(x) and phi(x): GELU(x) = x Phi(x), and GELU'(x) = Phi(x) + x phi(x).
struct Normal {
    float cdf, density;
};

template <class T>
__device__ __forceinline__ Normal normal(float x);

template <>
__device__ __forceinline__ Normal normal<float>(float x) {
    return {0.5f + 0.5f * erff(0.70710678f * x), 0.39894228f * expf(-0.5f * x * x)};
}

// Off by 1.5e-7 at most, which bf16 does not see; half the instructions, and one exponential for both: erf by
// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
template <>
__device__ __forceinline__ Normal normal<bf16>(float x) {
    float e = __expf(-0.5f * x * x), t = __fdividef(1.0f, 1.0f + 0.3275911f * 0.70710678f * fabsf(x));
    float terms = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    float beyond = 0.5f * terms * e; // Phi(-|x|)
    return {x < 0 ? beyond : 1.0f - beyond, 0.39894228f * e};
}

// How GELU' is kept for the way back, beside activations of T.
template <class T>
struct Slope {
    using Kept = float;
    static __device__ __forceinline__ Kept keep(float slope) { return slope; }
    static __device__ __forceinline__ float read(Kept kept) { return kept; }
};

// It lies within -0.1291 and 1.1291, so that a byte is about as exact as a bf16; 0 and 1 are kept exactly.
template <>
struct Slope<bf16> {
    using Kept = uint8_t;
    static constexpr float ZERO = SLOPE_ZERO, STEPS = SLOPE_STEPS;
    static __device__ __forceinline__ Kept keep(float slope) {
        return static_cast<Kept>(slope * STEPS + (ZERO + 0.5f));
    }
    static __device__ __forceinline__ float read(Kept kept) { return (static_cast<float>(kept) - ZERO) * (1.0f / STEPS); }
};

// N columns of the result from `column` of the part on; those from part.n on are left out. ALIGNED: part.n, the strides
// and the column are multiples of N.
template <class T, bool ALIGNED, uint32_t N>
struct Columns {
    const Gemm& p;
    const Part& part;
    uint32_t column, count;

    __device__ Columns(const Gemm& p, const Part& part, uint32_t column)
        : p(p), part(part), column(column), count(column < part.n ? min(N, part.n - column) : 0) {}

    template <class U>
    __device__ __forceinline__ Pack<U, N> load(const U* from) const {
        Pack<U, N> v = {};
        if constexpr (ALIGNED) {
            if (count > 0) v = load_pack<N>(from);
        } else {
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                if (i < count) v.at[i] = from[i];
            }
        }
        return v;
    }

    template <class U>
    __device__ __forceinline__ void store(void* to, uint32_t row, const Pack<U, N>& v) const {
        U* place = static_cast<U*>(to) + static_cast<size_t>(row) * p.out_stride + part.column + column;
        if constexpr (ALIGNED) {
            if (count > 0) store_pack(place, v);
        } else {
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                if (i < count) place[i] = v.at[i];
            }
        }
    }

    __device__ __forceinline__ Pack<float, N> bias() const {
        return part.bias == nullptr ? Pack<float, N>{} : load(part.bias + column);
    }

    // Of a row: what the product is multiplied by, and what is added.
    struct Beside {
        Pack<typename Slope<T>::Kept, N> factor;
        Pack<T, N> addend;
    };

    __device__ __forceinline__ Beside beside(uint32_t row) const {
        auto at = [&](const auto* from, uint32_t stride) {
            size_t first = static_cast<size_t>(row) * stride + part.column + column;
            return from == nullptr ? decltype(load(from)){} : load(from + first);
        };
        return {at(static_cast<const typename Slope<T>::Kept*>(p.factor), p.factor_stride),
                at(static_cast<const T*>(p.addend), p.addend_stride)};
    }

    // The epilogue.
    __device__ __forceinline__ void finish(uint32_t row, const float (&product)[N], const Pack<float, N>& bias,
                                           const Beside& beside) const {
        float y[N];
#pragma unroll
        for (uint32_t i = 0; i < N; i++) y[i] = product[i] + bias.at[i];
        if (p.gelu) {
            Normal of[N];
#pragma unroll
            for (uint32_t i = 0; i < N; i++) of[i] = normal<T>(y[i]);
            if (p.slope != nullptr) {
                Pack<typename Slope<T>::Kept, N> slope;
#pragma unroll
                for (uint32_t i = 0; i < N; i++) slope.at[i] = Slope<T>::keep(of[i].cdf + y[i] * of[i].density);
                store(p.slope, row, slope);
            }
#pragma unroll
            for (uint32_t i = 0; i < N; i++) y[i] *= of[i].cdf;
        }
        if (p.factor != nullptr) {
#pragma unroll
            for (uint32_t i = 0; i < N; i++) y[i] *= Slope<T>::read(beside.factor.at[i]);
        }
        Pack<T, N> out;
#pragma unroll
        for (uint32_t i = 0; i < N; i++) out.at[i] = from_float<T>(y[i] + to_float(beside.addend.at[i]));
        store(p.out, row, out);
    }
};

template <class T, bool ALIGNED, uint32_t N>
__device__ __forceinline__ void finish(const Gemm& p, const Part& part, uint32_t row, uint32_t column,
                                       const float (&product)[N]) {
    Columns<T, ALIGNED, N> columns(p, part, column);
    columns.finish(row, product, columns.bias(), columns.beside(row));
}

// The target that a rank of low_left belongs to, with dropout.
__device__ __forceinline__ uint32_t target_of(const Gemm& p, uint32_t rank) {
    uint32_t target = 0;
#pragma unroll
    for (uint32_t m = 0; m < LINEAR_MODULES; m++) target += p.low_ends[m] <= rank;
    return target;
}
