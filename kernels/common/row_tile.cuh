// Rows of several adapters in one batch: which of them a block has.
#pragma once

#include "launch.cuh"

// A tile of rows that belong to one adapter.
struct RowTile {
    uint32_t first, end, adapter;
};

// The rows of this block, whose tiles are `height` high: as `tiles` says, one for each block in y, or, where it
// is null, of all rows, which are the first adapter's. There may be none.
__device__ __forceinline__ RowTile row_tile(const RowTile* tiles, const Rows& rows, uint32_t height) {
    RowTile tile = {blockIdx.y * height, (blockIdx.y + 1) * height, 0};
    if (tiles != nullptr) tile = tiles[blockIdx.y];
    tile.end = min(tile.end, rows.count());
    return tile;
}
