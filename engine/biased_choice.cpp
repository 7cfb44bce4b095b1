#include "engine/biased_choice.h"

namespace signalbox::engine {

int32_t BiasedChoice::choose(Tensor row, const LogitBias& bias, const SampleParams& params) {
  const size_t bytes = static_cast<size_t>(n_vocab_) * sizeof(float);
  if (!row_) {
    host_.resize(static_cast<size_t>(n_vocab_));
    row_ = backend_.allocate(bytes);
    id_ = backend_.allocate(sizeof(int32_t));
    params_ = backend_.allocate(sizeof(SampleParams));
  }
  backend_.download(host_.data(), row.data, bytes);
  for (const auto& [token, by] : bias) host_[static_cast<size_t>(token)] += by;
  backend_.upload(row_.get(), host_.data(), bytes);
  backend_.upload(params_.get(), &params, sizeof params);
  backend_.sample(static_cast<int32_t*>(id_.get()), Tensor(static_cast<float*>(row_.get()), 1, n_vocab_),
                  static_cast<const SampleParams*>(params_.get()));
  int32_t id = -1;
  backend_.download(&id, id_.get(), sizeof id);
  return id;
}

}  // namespace signalbox::engine
