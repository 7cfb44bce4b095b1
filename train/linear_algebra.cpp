#include "train/linear_algebra.h"

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>

namespace signalbox::train {

namespace {

using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Map<const Rows> view(const DenseMatrix& m) { return {m.values.data(), m.rows, m.cols}; }

template <class Expression>
DenseMatrix dense(const Expression& expression) {
  DenseMatrix out(expression.rows(), expression.cols());
  Eigen::Map<Rows>(out.values.data(), out.rows, out.cols) = expression;
  return out;
}

}  // namespace

DenseMatrix identity_matrix(int64_t n) { return dense(Rows::Identity(n, n)); }
DenseMatrix product(const DenseMatrix& a, const DenseMatrix& b) { return dense(view(a) * view(b)); }
DenseMatrix product_transposed(const DenseMatrix& a, const DenseMatrix& b) {
  return dense(view(a) * view(b).transpose());
}

DenseMatrix orthogonal_factor(const DenseMatrix& m, int64_t* rank) {
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(view(m), Eigen::ComputeFullU | Eigen::ComputeFullV);
  if (rank) {
    const auto& values = svd.singularValues();
    *rank = std::count_if(values.begin(), values.end(), [&](double s) { return s > 1e-9 * values[0]; });
  }
  return dense(svd.matrixU() * svd.matrixV().transpose());
}

DenseMatrix inverse_root(const DenseMatrix& m, double lambda) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(view(m));
  const Eigen::VectorXd roots = (solver.eigenvalues().array().max(0) + lambda).rsqrt().matrix();
  return dense(solver.eigenvectors() * roots.asDiagonal() * solver.eigenvectors().transpose());
}

DenseMatrix whitening_directions(const DenseMatrix& m, double share) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(view(m));
  const Eigen::VectorXd& values = solver.eigenvalues();  // ascending
  const double trace = values.array().max(0).sum();
  int64_t k = 0;
  for (double sum = 0; k < values.size() && sum < share * trace; ++k)
    sum += std::max(0.0, values[values.size() - 1 - k]);
  DenseMatrix out(k, m.cols);
  for (int64_t r = 0; r < k; ++r) {
    const int64_t from = values.size() - 1 - r;
    for (int64_t c = 0; c < m.cols; ++c) out.at(r, c) = solver.eigenvectors()(c, from) / std::sqrt(values[from]);
  }
  return out;
}

double nuclear_norm(const DenseMatrix& m) {
  if (m.rows == 0 || m.cols == 0) return 0;
  return Eigen::BDCSVD<Eigen::MatrixXd>(view(m)).singularValues().sum();
}

}  // namespace signalbox::train
