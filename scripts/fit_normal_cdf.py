#!/usr/bin/env python3
"""Fits the rational function behind `normal_cdf` in src/device/cpu/simd.rs.

(Phi(x) - 1/2) / x = P(x^2) / Q(x^2) on |x| <= 5.6, weighted by x (so that the error of Phi itself is
level), by linearised least squares reweighted towards the minimax fit (Sanathanan and Koerner; Lawson).
Needs numpy and mpmath. Prints the coefficients of P and Q, lowest power first, and the largest error.
"""
import mpmath
import numpy as np

RANGE, DEGREE_P, DEGREE_Q, POINTS = 5.6, 5, 5, 400

mpmath.mp.dps = 40
x = RANGE * np.sin((np.arange(POINTS) + 0.5) / POINTS * np.pi / 2)
f = np.array([float((mpmath.ncdf(v) - mpmath.mpf(1) / 2) / v) for v in x])
s = (x / RANGE) ** 2
columns = [s**i for i in range(DEGREE_P + 1)] + [-f * s**i for i in range(1, DEGREE_Q + 1)]
matrix, q, lawson, best = np.stack(columns, 1), np.ones(POINTS), np.ones(POINTS), (np.inf, None)
for _ in range(300):
    weight = x / np.abs(q) * np.sqrt(lawson)
    c, *_ = np.linalg.lstsq(matrix * weight[:, None], f * weight, rcond=None)
    p = sum(c[i] * s**i for i in range(DEGREE_P + 1))
    q = 1 + sum(c[DEGREE_P + i] * s**i for i in range(1, DEGREE_Q + 1))
    error = np.abs(p / q - f) * x
    if error.max() < best[0]:
        best = (error.max(), c)
    lawson = lawson * (error / error.max() + 1e-3)
    lawson /= lawson.mean()
c = best[1]
print("P", [c[i] / RANGE ** (2 * i) for i in range(DEGREE_P + 1)])
print("Q", [1.0] + [c[DEGREE_P + i] / RANGE ** (2 * i) for i in range(1, DEGREE_Q + 1)])
print("largest error", best[0])
