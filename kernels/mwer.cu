// The MWER loss of every utterance and its gradients: with s = offset + beta g and P = softmax(s),
// L = sum P (e - mean e), dL/dg = beta P (e - sum P e), dL/dtheta = sum dL/dg g.

#include "common/reduce.cuh"

struct Mwer {
    const float* offsets;   // [hypotheses]
    const float* scores;    // [hypotheses]: g
    const float* errors;    // [hypotheses]: e
    const uint32_t* starts; // [utterances + 1]: whose the hypotheses are
    const float* theta;     // beta is its exponential; or null: as given
    float* d_scores;        // [hypotheses]: of the mean over the utterances
    float* of_utterances;   // [utterances, 3]: loss, loss without g, dL/dtheta
    Rows utterances;
    float beta;
    uint32_t unused;
};

// A block for each utterance.
KERNEL(mwer, Mwer, MWER_THREADS) {
    constexpr uint32_t WARPS = MWER_THREADS / WARP;
    uint32_t utterance = blockIdx.x, utterances = p.utterances.count();
    if (utterance >= utterances) return; // the whole block
    SharedMemory memory;
    float* shared = memory.take<float>(WARPS * 5);
    uint32_t first = p.starts[utterance] + threadIdx.x, end = p.starts[utterance + 1];
    uint32_t n = end - p.starts[utterance];
    float beta = p.theta == nullptr ? p.beta : expf(*p.theta);
    auto combined = [&](uint32_t i) { return p.offsets[i] + beta * p.scores[i]; };

    float largest[2] = {-INFINITY, -INFINITY}; // with g, without
    for (uint32_t i = first; i < end; i += MWER_THREADS) {
        largest[0] = fmaxf(largest[0], combined(i));
        largest[1] = fmaxf(largest[1], p.offsets[i]);
    }
    block_maxima<WARPS>(largest, shared);

    float sums[5] = {}; // of exponentials and of those times e, with g and without; of e
    for (uint32_t i = first; i < end; i += MWER_THREADS) {
        float e = p.errors[i], with = expf(combined(i) - largest[0]), without = expf(p.offsets[i] - largest[1]);
        sums[0] += with;
        sums[1] += with * e;
        sums[2] += without;
        sums[3] += without * e;
        sums[4] += e;
    }
    block_sums<WARPS>(sums, shared);
    float expected = sums[1] / sums[0], mean = sums[4] / static_cast<float>(n);

    // The mean is taken away before the weights, not after: few errors among many would be lost.
    float found[3] = {};
    for (uint32_t i = first; i < end; i += MWER_THREADS) {
        float e = p.errors[i], with = expf(combined(i) - largest[0]) / sums[0];
        float d = beta * (with * (e - expected));
        found[0] += with * (e - mean);
        found[1] += expf(p.offsets[i] - largest[1]) / sums[2] * (e - mean);
        found[2] += d * p.scores[i];
        p.d_scores[i] = d / static_cast<float>(utterances);
    }
    block_sums<WARPS>(found, shared);
    if (threadIdx.x < 3) p.of_utterances[utterance * 3 + threadIdx.x] = found[threadIdx.x];
}

struct MwerSum {
    const float* of_utterances; // [utterances, 3]
    float* losses;              // [2]: the mean loss, and the mean loss without g
    float* d_theta;             // added to; or null
    Rows utterances;
};

// The means over the utterances, by one block.
KERNEL(mwer_sum, MwerSum, MWER_THREADS) {
    constexpr uint32_t WARPS = MWER_THREADS / WARP;
    SharedMemory memory;
    float* shared = memory.take<float>(WARPS * 3);
    uint32_t utterances = p.utterances.count();
    float sums[3] = {};
    for (uint32_t u = threadIdx.x; u < utterances; u += MWER_THREADS) {
        for (uint32_t i = 0; i < 3; i++) sums[i] += p.of_utterances[u * 3 + i];
    }
    block_sums<WARPS>(sums, shared);
    if (threadIdx.x > 0) return;
    float count = static_cast<float>(max(utterances, 1u));
    p.losses[0] = sums[0] / count;
    p.losses[1] = sums[1] / count;
    if (p.d_theta != nullptr) *p.d_theta += sums[2] / count;
}
