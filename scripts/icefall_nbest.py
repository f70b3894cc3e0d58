"""Writes the N-best lists of icefall as JSON lines for lorb-engine; icefall itself keeps only the best path.

In the decode.py of a recipe, where it makes an `Nbest` (methods nbest-rescoring, nbest-oracle):

    from icefall_nbest import write_nbest
    nbest = Nbest.from_lattice(lattice, num_paths=100, nbest_scale=0.5).intersect(lattice)
    write_nbest(out, [cut.id for cut in cuts], nbest, get_texts(nbest.fsa), word_table, texts)

`out` is a text file that stays open for all batches. "am" is the score without that of the lattice's n-gram model, "lm"
that one, "score" their sum; paths come best first, and those without a finite score are left out.
"""

import json
import math


def write_nbest(out, ids, nbest, words, word_table, references=None):
    """One line for each utterance of `nbest`.

    ids: of its utterances. words: ids of the words of each path, as icefall.utils.get_texts gives them for nbest.fsa.
    word_table: gives the word of an id. references: what was said, where known.
    """
    starts = nbest.shape.row_splits(1).tolist()
    am = nbest.compute_am_scores().values.tolist()
    lm = nbest.compute_lm_scores().values.tolist()
    if len(starts) != len(ids) + 1 or not len(am) == len(lm) == len(words) == starts[-1]:
        raise ValueError(f"{len(ids)} utterances, {len(starts) - 1} lists of {len(words)} paths")
    for i, id in enumerate(ids):
        hyps = [
            {"text": " ".join(word_table[word] for word in words[p]), "am": am[p], "lm": lm[p], "score": am[p] + lm[p]}
            for p in range(starts[i], starts[i + 1])
            if math.isfinite(am[p]) and math.isfinite(lm[p])
        ]
        if not hyps:
            continue
        hyps.sort(key=lambda hyp: -hyp["score"])
        line = {"id": id, "hyps": hyps}
        if references is not None:
            line["ref"] = references[i]
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
