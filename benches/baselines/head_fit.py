"""Where `lorb-engine train` starts the classifier (src/train/head_fit.rs), in NumPy: the least-squares fit of the errors
on the base's features, its ridge and scale chosen by two-fold cross-validation over lists."""

import numpy as np

RIDGES = [1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0]


def centred(features: np.ndarray, offsets: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A list's posterior, and its features and errors less their means under it."""
    p = np.exp(offsets - offsets.max())
    p /= p.sum()
    return p, features - p @ features, errors - p @ errors


def sums(lists: list) -> tuple[np.ndarray, np.ndarray]:
    """sum of P z z^T and of -P z e."""
    p, z, e = (np.concatenate(part) for part in zip(*lists))
    return (z * p[:, None]).T @ z, -(z * p[:, None]).T @ e


def solve(covariance: np.ndarray, target: np.ndarray, ridge: float) -> np.ndarray:
    return np.linalg.solve(covariance + ridge * np.trace(covariance) / len(target) * np.eye(len(target)), target)


def head_fit(lists: list) -> np.ndarray | None:
    """The classifier's weight from lists of (features, offsets, errors); None where nothing is predicted."""
    parts = [centred(*(np.asarray(x, dtype=np.float64) for x in one)) for one in lists]
    (ca, ta), (cb, tb) = sums(parts[::2]), sums(parts[1::2])
    best = (0.0, 0.0, 0.0)
    for ridge in RIDGES:
        a, b = solve(ca, ta, ridge), solve(cb, tb, ridge)
        quadratic, linear = a @ cb @ a + b @ ca @ b, tb @ a + ta @ b
        scale = min(linear / quadratic, 1.0)
        gain = 2 * scale * linear - scale**2 * quadratic
        if scale > 0 and gain > best[0]:
            best = (gain, ridge, scale)
    _, ridge, scale = best
    return scale * solve(ca + cb, ta + tb, ridge) if scale > 0 else None
