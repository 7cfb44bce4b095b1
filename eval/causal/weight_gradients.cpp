#include "eval/causal/weight_gradients.h"

#include <algorithm>

#include "base/error.h"
#include "base/glob.h"
#include "base/safetensors.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;

namespace {

std::string without_layer(const TensorId& id) { return weight_name({id.role, -1, id.expert}); }

size_t floats_of(const WantedWeight& of) { return static_cast<size_t>(of.rows * of.cols); }

}  // namespace

std::vector<WantedWeight> wanted_weights(std::string_view globs, const Session& session) {
  std::vector<TensorPlace> all;
  Weights views = session.weights;  // places point into it
  for_each_tensor(session.model, views, [&](const TensorPlace& place) { all.push_back(place); });
  std::vector<uint8_t> taken(all.size(), 0);
  for (size_t begin = 0; begin <= globs.size();) {
    const size_t end = std::min(globs.find(',', begin), globs.size());
    const std::string glob(globs.substr(begin, end - begin));
    bool any = false, constant = false;
    for (size_t i = 0; i < all.size(); ++i) {
      const TensorPlace& place = all[i];
      if (!glob_matches(glob, weight_name(place.id)) && !glob_matches(glob, without_layer(place.id))) continue;
      if (!has_gradient(place.id.role)) {
        constant = true;
        continue;
      }
      if (place.matrix && in_blocks(place.matrix->dtype))
        throw UsageError("--weights", "expected weights of F32, F16 or BF16, found " + weight_name(place.id) +
                                          ", which is stored as " + std::string(dtype_name(place.matrix->dtype)));
      any = true;
      taken[i] = 1;
    }
    if (!any && constant)
      throw UsageError("--weights",
                       "expected weights that have a gradient, found " + glob + " (it only chooses experts)");
    if (!any)
      throw UsageError("--weights",
                       "expected GLOB[,GLOB...] of names such as embed, layer.3.q, layer.3.router or "
                       "layer.3.expert.5.gate, found \"" +
                           glob + "\", which names none of this model");
    begin = end + 1;
  }
  std::vector<WantedWeight> wanted;
  for (size_t i = 0; i < all.size(); ++i)
    if (taken[i]) wanted.push_back({all[i].id, all[i].rows, all[i].cols, all[i].vector != nullptr});
  return wanted;
}

WeightGradients::WeightGradients(const Session& session, std::vector<WantedWeight> wanted) : session_(session) {
  const auto zeros = [&](const WantedWeight& of) {
    const size_t bytes = floats_of(of) * sizeof(float);
    std::shared_ptr<void> memory = session_.backend->allocate(bytes);
    session_.backend->fill(memory.get(), 0, bytes);
    bytes_ += bytes;
    return memory;
  };
  for (const WantedWeight& of : wanted) {
    index_[weight_name(of.id)] = sums_.size();
    sums_.push_back({of, zeros(of)});
    if (of.id.role == Role::embed && session.model.tied_embeddings) tied_head_ = zeros(of);
  }
}

Tensor WeightGradients::sum(const TensorId& id) {
  const bool head = id.role == Role::lm_head && tied_head_;
  const auto found = index_.find(weight_name(head ? TensorId{Role::embed, -1, -1} : id));
  if (found == index_.end()) return {};
  const Sum& of = sums_[found->second];
  return Tensor(static_cast<float*>(head ? tied_head_.get() : of.memory.get()), of.of.rows, of.of.cols);
}

// Named as they are written, the second part of tied embeddings by its own name.
void WeightGradients::keep_sums(const std::filesystem::path& file, int64_t records) const {
  std::vector<safetensors::TensorHeader> headers;
  std::vector<std::shared_ptr<void>> memories;
  const auto add = [&](const std::string& name, const Sum& sum, const std::shared_ptr<void>& memory) {
    headers.push_back({name, "F32", {sum.of.rows, sum.of.cols}});
    memories.push_back(memory);
  };
  for (const Sum& sum : sums_) {
    add(weight_name(sum.of.id), sum, sum.memory);
    if (sum.of.id.role == Role::embed && tied_head_) add(weight_name({Role::lm_head, -1, -1}), sum, tied_head_);
  }
  safetensors::Writer out(file, headers, {{"model_hash", session_.model_hash}, {"records", std::to_string(records)}});
  std::vector<float> values;
  for (size_t i = 0; i < headers.size(); ++i) {
    values.resize(static_cast<size_t>(headers[i].bytes()) / sizeof(float));
    session_.backend->download(values.data(), memories[i].get(), values.size() * sizeof(float));
    out.write(values.data(), values.size() * sizeof(float));
  }
  out.finish();
}

int64_t WeightGradients::read_sums(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return 0;
  const auto in = safetensors::File::open(file);
  const auto take = [&](const std::string& name, const Sum& sum, const std::shared_ptr<void>& memory) {
    const safetensors::TensorInfo& info = in->at(name);
    if (info.dtype != "F32" || info.shape != std::vector<int64_t>{sum.of.rows, sum.of.cols})
      throw Error(in->name(), name + ": expected F32 " +
                                  safetensors::shape_text(std::vector<int64_t>{sum.of.rows, sum.of.cols}) + ", found " +
                                  info.dtype + " " + safetensors::shape_text(info.shape));
    session_.backend->upload(memory.get(), in->data(info), floats_of(sum.of) * sizeof(float));
  };
  for (const Sum& sum : sums_) {
    take(weight_name(sum.of.id), sum, sum.memory);
    if (sum.of.id.role == Role::embed && tied_head_) take(weight_name({Role::lm_head, -1, -1}), sum, tied_head_);
  }
  const auto records = in->metadata().find("records");
  return records == in->metadata().end() ? 0 : std::stoll(records->second);
}

void WeightGradients::write(const std::filesystem::path& dir, double factor) const {
  std::vector<safetensors::TensorHeader> headers;
  for (const Sum& sum : sums_)
    headers.push_back(
        {"grad.weight." + weight_name(sum.of.id), "F32",
         sum.of.vector ? std::vector<int64_t>{sum.of.cols} : std::vector<int64_t>{sum.of.rows, sum.of.cols}});
  safetensors::Writer file(dir / weight_gradients_file, headers,
                           {{"schema", "signalbox.weight-gradients/1"}, {"model_hash", session_.model_hash}});
  std::vector<float> values, head;
  for (const Sum& sum : sums_) {
    values.resize(floats_of(sum.of));
    session_.backend->download(values.data(), sum.memory.get(), values.size() * sizeof(float));
    if (sum.of.id.role == Role::embed && tied_head_) {
      head.resize(values.size());
      session_.backend->download(head.data(), tied_head_.get(), head.size() * sizeof(float));
      for (size_t i = 0; i < values.size(); ++i) values[i] += head[i];
    }
    if (factor != 1)
      for (float& x : values) x = static_cast<float>(static_cast<double>(x) * factor);
    file.write(values.data(), values.size() * sizeof(float));
  }
  file.finish();
}

}  // namespace signalbox::eval
