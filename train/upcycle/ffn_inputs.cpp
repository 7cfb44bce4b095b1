#include "train/upcycle/ffn_inputs.h"

#include <unistd.h>

#include "base/files.h"

namespace signalbox::train {

FfnInputs::FfnInputs(const Session& session, const std::vector<Job>& jobs, const std::filesystem::path& directory)
    : session_(session), d_model_(session.model.d_model), starts_(1, 0) {
  for (const Job& job : jobs) starts_.push_back(starts_.back() + job.n_given());
  where_ = (directory / "inputs of the feed-forward blocks").string();
  descriptor_ = open_unnamed(directory, where_);
}

FfnInputs::~FfnInputs() {
  if (descriptor_ >= 0) close(descriptor_);
}

uint64_t FfnInputs::offset(int64_t layer, int64_t row) const {
  return static_cast<uint64_t>((layer * n_tokens() + row) * d_model_) * sizeof(float);
}

int64_t FfnInputs::bytes() const { return static_cast<int64_t>(offset(session_.model.n_layers(), 0)); }

void FfnInputs::take(Point, int32_t layer, const float* data, int64_t width) {
  for (const RowRange& range : ranges_)
    write_at(descriptor_, offset(layer, starts_[static_cast<size_t>(range.sample)] + range.first_row),
             data + range.batch_row * width, static_cast<size_t>(range.n_rows * width) * sizeof(float), where_);
}

void FfnInputs::read(int64_t layer, int64_t first, int64_t n, float* out) const {
  read_at(descriptor_, offset(layer, first), out, static_cast<size_t>(n * d_model_) * sizeof(float), where_);
  const Tensor rows(out, n, d_model_);
  session_.backend->rmsnorm(rows, rows, session_.weights.layers[static_cast<size_t>(layer)].ffn_norm,
                            session_.model.norm_eps);
  session_.backend->synchronize();
}

}  // namespace signalbox::train
