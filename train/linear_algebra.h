// Decompositions of dense matrices, in double, row-major, on one thread: results depend on the numbers alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "train/namespaces.h"

namespace signalbox::train {

// m [rows, cols].
struct DenseMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<double> values;

  DenseMatrix() = default;
  DenseMatrix(int64_t rows, int64_t cols) : rows(rows), cols(cols), values(static_cast<size_t>(rows * cols)) {}
  double& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * cols + c)]; }
  double at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * cols + c)]; }
};

DenseMatrix identity_matrix(int64_t n);
DenseMatrix product(const DenseMatrix& a, const DenseMatrix& b);             // a b
DenseMatrix product_transposed(const DenseMatrix& a, const DenseMatrix& b);  // a b'

// The orthogonal factor U V' of square m = U S V': of all rotations and reflections Q the one with the largest
// <Q, m>. `rank`, where it is asked for: singular values above 1e-9 of the largest. Directions beyond it are arbitrary.
DenseMatrix orthogonal_factor(const DenseMatrix& m, int64_t* rank = nullptr);

// (m + lambda I)^(-1/2) of a symmetric m without negative eigenvalues; lambda > 0.
DenseMatrix inverse_root(const DenseMatrix& m, double lambda);

// The directions of a symmetric m that hold `share` of its trace, the largest first, each divided by the root of its
// eigenvalue: rows [k, n]. k is 0 for a trace of 0.
DenseMatrix whitening_directions(const DenseMatrix& m, double share);

// The sum of m's singular values.
double nuclear_norm(const DenseMatrix& m);

}  // namespace signalbox::train
