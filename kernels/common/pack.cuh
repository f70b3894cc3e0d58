// Neighbours that move together.
#pragma once

#include "bf16.cuh"

// `n` elements, aligned to their size: up to 16 bytes are one load or store.
template <class T, uint32_t n>
struct alignas(sizeof(T) * n) Pack {
    T at[n];
};

// How many T are 16 bytes.
template <class T>
constexpr uint32_t WIDE = 16 / sizeof(T);

template <uint32_t n, class T>
__device__ __forceinline__ Pack<T, n> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T, n>*>(from);
}

template <uint32_t n, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, n>& pack) {
    *reinterpret_cast<Pack<T, n>*>(to) = pack;
}
