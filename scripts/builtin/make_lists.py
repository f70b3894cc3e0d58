#!/usr/bin/env python3
"""Makes the builtin N-best lists: speaks sentences.txt, adds noise, decodes, keeps the N-best.

    python3 -m venv VENV && VENV/bin/pip install pocketsphinx==5.1.1
    nice VENV/bin/python scripts/builtin/make_lists.py scripts/builtin/sentences.txt assets/builtin

Made with flite 2.2 (voices slt, rms, awb by the sentence's index), sox 14.4.2 (resampling, pink noise)
and pocketsphinx 5.1.1 with the en-us acoustic model, dictionary and trigram that come in its wheel.
About 10 minutes on one core. Nothing is drawn at random but sox's noise, whose seed is fixed (-R), so
the same versions give the same lists.

Scores: pocketsphinx gives one total for an entry of its N-best list (acoustic + 6.5 * trigram + word
penalties). It is an integer in log base 1.0001, shifted right by 10 bits, which the binding
exponentiates; here it is turned back to natural logarithms: am = 1024 * ln(score). Higher is better.

A list is left out where it has fewer than two hypotheses, or an offensive word in any of them.
"""

import argparse
import array
import codecs
import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile

VOICES = ("slt", "rms", "awb")
SNR_DB = (24.0, 27.0, 30.0, 33.0)  # by the sentence's index
ENTRIES = 300  # of the decoder's N-best looked at, many of them equal but for fillers
HYPS = 12  # kept

# rot13. A word is refused if it begins with one of the stems, or is one of the words.
STEMS = """shpx fuvg ovgpu nffubyr nffrf qnza phag avttre avttn snttbg juber fyhg chffl onfgneq cvff ergneq
encr encvfg anmv cbea frk obbo cravf intvan xvxr tbbx arteb zheqre greebevf fhvpvqr anxrq ahqr ubzbfrk yrfovna
tnl wrjf zhfyvz vfynz nenof tbqqnza pbpnvar urebva fynir trabpvqr ubybpnhfg uvgyre cebfgvghg betnfz rebgvp
trarvgny zbyrfg crqbcuvy nohf enpvfz enpvfg obzo fgenatyr xvyy encvat gbegher nobegvba pbaqbz vaoerq unznf fjvatre fgevccre
wvunq nypbuby""".split()
WORDS = """nff uryy pbpx pbpxf qvpx qvpxf snt sntf gvg gvgf cevpx phz fcvp puvax qlxr wrj wrjvfu puevfg wrfhf
penc penccl fperj fperjrq ohgg ohggf unez fuvgf ubr ubrf ubzb vqvbg fghcvq wrex fhpx fhpxf fhpxrq oybbql vaqvnaf
oynpxf tvzc onfgneqf gbegherq""".split()
STEMS = tuple(codecs.decode(w, "rot13") for w in STEMS)
WORDS = frozenset(codecs.decode(w, "rot13") for w in WORDS)


def offensive(texts):
    """The offensive words of the texts, in rot13."""
    words = {w for text in texts for w in text.lower().split() if w in WORDS or w.startswith(STEMS)}
    return sorted(codecs.encode(w, "rot13") for w in words)


def raw(args):
    """16-bit samples at 16 kHz of a sox command's output."""
    out = subprocess.run(["sox", "-R", *args], check=True, capture_output=True).stdout
    return array.array("h", out)


RAW = ["-t", "raw", "-r", "16000", "-c", "1", "-b", "16", "-e", "signed", "-"]


def speak(text, voice, wav):
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", wav], check=True, capture_output=True)
    return raw([wav, *RAW, "pad", "0.15", "0.15"])


def rms(x):
    return math.sqrt(sum(v * v for v in x) / len(x))


def clean(hyp):
    """The words of a decoder's hypothesis without fillers and marks of alternative pronunciations."""
    words = [re.sub(r"\(\d+\)$", "", w) for w in hyp.lower().split()]
    return " ".join(w for w in words if w[0] not in "<[+")


def decode(decoder, samples):
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    best = {}
    for k, entry in enumerate(decoder.nbest() or ()):
        if k == ENTRIES:
            break
        if entry is None or entry.score <= 0:
            continue
        text = clean(entry.hypstr)
        am = round(1024.0 * math.log(entry.score), 2)
        if text and am > best.get(text, -math.inf):
            best[text] = am
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:HYPS]
    return [{"text": text, "am": am} for text, am in ranked]


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences")
    parser.add_argument("out")
    parser.add_argument("--every", type=int, default=1, help="only every so many sentences, to try things out")
    options = parser.parse_args()

    from pocketsphinx import Decoder

    # cmn=batch: an utterance does not depend on those before it.
    # The narrower beams take a third off the time and cost nothing.
    decoder = Decoder(samprate=16000, cmn="batch", maxhmmpf=4000, maxwpf=20, pl_window=5, loglevel="FATAL")
    noise = raw(["-n", *RAW, "synth", "60", "pinknoise", "vol", "0.3"])
    lists = {"train": [], "valid": []}
    refused = 0
    with open(options.sentences) as f:
        sentences = [line.rstrip("\n").split("\t") for line in f]
    with tempfile.TemporaryDirectory() as folder:
        for k, (part, ref) in enumerate(sentences):
            if k % options.every:
                continue
            speech = speak(ref, VOICES[k % len(VOICES)], os.path.join(folder, "x.wav"))
            start = k * 7919 % (len(noise) - len(speech))
            piece = noise[start : start + len(speech)]
            gain = rms(speech) / rms(piece) * 10 ** (-SNR_DB[k // len(VOICES) % len(SNR_DB)] / 20)
            mixed = (int(round(s + gain * n)) for s, n in zip(speech, piece))
            hyps = decode(decoder, array.array("h", (max(-32768, min(32767, v)) for v in mixed)))
            words = offensive([ref, *(h["text"] for h in hyps)])
            if len(hyps) < 2 or words:
                print("left out:", k, len(hyps), *words, file=sys.stderr)
                refused += 1
                continue
            lists[part].append({"id": f"{part}-{k:04}", "ref": ref, "hyps": hyps})

    os.makedirs(options.out, exist_ok=True)
    for part, utterances in lists.items():
        path = os.path.join(options.out, f"{part}.jsonl.gz")
        text = "".join(json.dumps(u, separators=(",", ":")) + "\n" for u in utterances)
        with open(path, "wb") as f, gzip.GzipFile("", "wb", 9, f, mtime=0) as z:
            z.write(text.encode())
        words = sum(len(u["ref"].split()) for u in utterances)
        errors = [[distance(h["text"].split(), u["ref"].split()) for h in u["hyps"]] for u in utterances]
        print(
            f"{part}: {len(utterances)} lists, {sum(map(len, errors))} hypotheses, {words} words, first pass "
            f"{100 * sum(e[0] for e in errors) / words:.2f} % WER, oracle {100 * sum(map(min, errors)) / words:.2f} %, "
            f"{os.path.getsize(path)} bytes"
        )
    print(f"left out: {refused}")


if __name__ == "__main__":
    main()
