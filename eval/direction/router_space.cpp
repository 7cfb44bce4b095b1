#include "eval/direction/router_space.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "eval/direction/estimate.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;

namespace {

// Rows of a matrix that lies on the device as rows of f32, f16 or bf16, which routers do everywhere.
std::vector<std::vector<double>> rows_of(Backend& backend, const Matrix& matrix) {
  if (matrix.dtype == DType::mxfp4) throw Error("router", "expected f32, f16 or bf16, found mxfp4");
  const size_t size = matrix.dtype == DType::f32 ? 4 : 2;
  std::vector<std::vector<double>> rows;
  std::vector<unsigned char> bytes(static_cast<size_t>(matrix.cols) * size);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    const auto* from =
        static_cast<const unsigned char*>(matrix.data) + static_cast<size_t>(r * matrix.row_stride) * size;
    backend.download(bytes.data(), from, bytes.size());
    std::vector<double> row(static_cast<size_t>(matrix.cols));
    for (size_t c = 0; c < row.size(); ++c) {
      if (size == 4) {
        float value;
        std::memcpy(&value, bytes.data() + 4 * c, 4);
        row[c] = double{value};
      } else {
        uint16_t half;
        std::memcpy(&half, bytes.data() + 2 * c, 2);
        row[c] = double{matrix.dtype == DType::f16 ? float_of_f16(half) : float_of_bf16(half)};
      }
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

std::optional<int32_t> reading_router(const Model& model, int64_t layer) {
  for (int64_t l = layer + 1; l < model.n_layers(); ++l)
    if (model.layers[static_cast<size_t>(l)].moe()) return static_cast<int32_t>(l);
  return std::nullopt;
}

// Gram and Schmidt, each row twice; the rows with most left first, so that what is left out is what the others span.
RouterSpace::RouterSpace(const Session& session, int32_t layer) {
  const LayerWeights& weights = session.weights.layers[static_cast<size_t>(layer)];
  std::vector<std::vector<double>> rows = rows_of(*session.backend, std::get<MoeWeights>(weights.ffn).router);
  std::vector<float> gamma(static_cast<size_t>(weights.ffn_norm.n));
  session.backend->download(gamma.data(), weights.ffn_norm.data, gamma.size() * sizeof(float));
  std::vector<double> before;
  for (std::vector<double>& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) row[c] *= double{gamma[c]};
    before.push_back(dot(row, std::span<const double>(row)));
  }
  std::vector<bool> used(rows.size());
  for (size_t step = 0; step < rows.size(); ++step) {
    size_t best = rows.size();
    double most = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const double left = used[i] || before[i] == 0 ? 0 : dot(rows[i], std::span<const double>(rows[i])) / before[i];
      if (left > most) {
        most = left;
        best = i;
      }
    }
    if (best == rows.size() || most < 1e-12) return;
    used[best] = true;
    std::vector<double> unit = rows[best];
    for (const std::vector<double>& b : basis_) {
      const double share = dot(unit, std::span<const double>(b));
      for (size_t c = 0; c < unit.size(); ++c) unit[c] -= share * b[c];
    }
    const double length = std::sqrt(dot(unit, std::span<const double>(unit)));
    for (double& value : unit) value /= length;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (used[i]) continue;
      const double share = dot(rows[i], std::span<const double>(unit));
      for (size_t c = 0; c < unit.size(); ++c) rows[i][c] -= share * unit[c];
    }
    basis_.push_back(std::move(unit));
  }
}

std::vector<double> RouterSpace::part(std::span<const double> v) const {
  std::vector<double> out(v.size());
  for (const std::vector<double>& b : basis_) {
    const double share = dot(v, std::span<const double>(b));
    for (size_t c = 0; c < out.size(); ++c) out[c] += share * b[c];
  }
  return out;
}

}  // namespace signalbox::eval
