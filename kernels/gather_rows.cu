// Rows picked by number, and the sums of their gradients.

#include "common/pack.cuh"

struct GatherRows {
    const void* x;         // rows of `units` units, `stride` apart
    const uint32_t* index; // [rows], rows of x
    void* y;               // [rows, units]
    Rows rows;
    uint32_t units, stride; // of 16 bytes each, or of 2
    uint32_t wide;          // whether of 16: all addresses are aligned to them
    uint32_t unused;
};

// A warp for each row.
template <class Unit>
__device__ void gather(const GatherRows& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= p.rows.count()) return wait_for_last_grid();
    const Unit* x = static_cast<const Unit*>(p.x) + static_cast<size_t>(p.index[row]) * p.stride;
    fetch_parameters(p);
    wait_for_last_grid();
    Unit* y = static_cast<Unit*>(p.y) + static_cast<size_t>(row) * p.units;
#pragma unroll 8
    for (uint32_t u = lane; u < p.units; u += WARP) y[u] = x[u];
}

KERNEL_AHEAD(gather_rows, GatherRows, GATHER_ROWS_THREADS, 1) {
    p.wide ? gather<Pack<uint32_t, 4>>(p) : gather<uint16_t>(p);
}

struct ScatterRows {
    const void* dy;         // rows of `width`, `dy_stride` apart; float or bf16
    const void* before;     // dx before, rows `before_stride` apart; or null: 0
    const uint32_t* starts; // [rows + 1]: the places of row r are places[starts[r] .. starts[r + 1]]
    const uint32_t* places; // rows of dy
    void* dx;               // [rows, width]
    Rows rows;
    uint32_t width, dy_stride, before_stride;
    uint32_t wide; // whether everything allows loads of 16 bytes
};

// As many rows of dy as are on their way to a thread at once. A batch's [CLS] is one row with a place in
// every sequence: one by one, its sum would wait for memory each time.
constexpr uint32_t AHEAD = 8;

// A warp for each row and 32 V columns: sums in the order of the places, whatever the shape of the grid.
template <class T, uint32_t V>
__device__ void scatter(const ScatterRows& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    uint32_t column = (blockIdx.y * WARP + lane) * V;
    if (row >= p.rows.count() || column >= p.width) return;
    auto load = [&](const void* from, uint32_t i, uint32_t stride) {
        return load_pack<V>(static_cast<const T*>(from) + static_cast<size_t>(i) * stride + column);
    };
    float sum[V] = {};
    auto add = [&](const Pack<T, V>& pack) {
#pragma unroll
        for (uint32_t v = 0; v < V; v++) sum[v] += to_float(pack.at[v]);
    };
    if (p.before != nullptr) add(load(p.before, row, p.before_stride));
    uint32_t end = p.starts[row + 1];
    for (uint32_t first = p.starts[row]; first < end; first += AHEAD) {
        Pack<T, V> dy[AHEAD];
#pragma unroll
        for (uint32_t a = 0; a < AHEAD; a++) {
            if (first + a < end) dy[a] = load(p.dy, p.places[first + a], p.dy_stride);
        }
#pragma unroll
        for (uint32_t a = 0; a < AHEAD; a++) {
            if (first + a < end) add(dy[a]);
        }
    }
    Pack<T, V> dx;
#pragma unroll
    for (uint32_t v = 0; v < V; v++) dx.at[v] = from_float<T>(sum[v]);
    store_pack<V>(static_cast<T*>(p.dx) + static_cast<size_t>(row) * p.width + column, dx);
}

KERNEL(scatter_rows_f32, ScatterRows, GATHER_ROWS_THREADS) {
    p.wide ? scatter<float, WIDE<float>>(p) : scatter<float, 1>(p);
}
KERNEL(scatter_rows_bf16, ScatterRows, GATHER_ROWS_THREADS) {
    p.wide ? scatter<bf16, WIDE<bf16>>(p) : scatter<bf16, 1>(p);
}
