"""Packs samples into rows: several samples a row, each seeing only itself, branches of one trunk only the trunk."""

from dataclasses import dataclass

import numpy as np
import torch

from world import A, C, D, END, Q, T, Sample

BOS, EOS = 1, 2
ROLE = {D: 0, Q: 1, A: 2, T: 3, C: 4}


@dataclass
class Encoded:
    tokens: list
    positions: list
    role: list
    previous: list  # index in the sample of the token before, -1 where no prediction is scored
    seen: list  # what each token sees: begin and end of the trunk, begin and end of the branch


class Encoder:
    def __init__(self, tokenizer):
        self.tokenizer, self.cache = tokenizer, {}

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, s: Sample, limit: int) -> Encoded | None:
        trunk = [BOS] + (self.ids(s.trunk) if s.trunk else [])
        n = len(trunk)
        out = Encoded(list(trunk), list(range(n)), [0] * n, [-1] + list(range(n - 1)),
                      [(0, t + 1, 0, 0) for t in range(n)])
        single = len(s.branches) == 1
        kept = 0
        for pieces in s.branches:
            tokens, roles = [], []
            for text, role in pieces:
                piece = [EOS] if text is END else self.ids(text)
                tokens += piece
                roles += [ROLE[role]] * len(piece)
            if len(out.tokens) + len(tokens) > limit:
                continue
            kept += 1
            at = len(out.tokens)
            out.tokens += tokens
            out.positions += range(n, n + len(tokens))
            out.seen += [(0, n, at, t + 1) for t in range(at, at + len(tokens))]
            out.role += roles
            # Several branches would give the trunk's last token several targets.
            out.previous += [n - 1 if single else -1] + list(range(at, at + len(tokens) - 1))
        return out if kept else None


def pack(samples, rows: int, width: int):
    """First fit, until five samples in a row found no place. The last entry lists the indices of those placed."""
    fill = [0] * rows
    tokens = np.zeros((rows, width), np.int64)
    positions = np.zeros((rows, width), np.int64)
    sample = np.full((rows, width), -1, np.int64)
    seen = np.zeros((rows, width, 4), np.int32)
    role = np.zeros((rows, width), np.int32)
    previous = np.full((rows, width), -1, np.int64)
    placed, missed = [], 0
    for index, s in enumerate(samples):
        n = len(s.tokens)
        row = next((r for r in range(rows) if fill[r] + n <= width), None)
        if row is None:
            missed += 1
            if missed > 4:
                break
            continue
        missed = 0
        at = fill[row]
        span = slice(at, at + n)
        tokens[row, span], positions[row, span] = s.tokens, s.positions
        seen[row, span] = np.asarray(s.seen) + at
        sample[row, span], role[row, span] = len(placed), s.role
        p = np.asarray(s.previous)
        previous[row, span] = np.where(p < 0, -1, p + at + row * width)
        fill[row] += n
        placed.append(index)
    return tokens, positions, sample, seen, role, previous, placed


class Batch:
    def __init__(self, packed):
        tokens, positions, sample, seen, role, previous, self.placed = packed
        self.tokens, self.positions, self.seen = map(torch.from_numpy, (tokens, positions, seen))
        self.sample, self.role = torch.from_numpy(sample).flatten(), torch.from_numpy(role).flatten()
        self.valid = (self.sample >= 0).float()
        self.previous = torch.from_numpy(previous).flatten()
