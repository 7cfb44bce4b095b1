// Edits whose values come from memory: the bits of the same edit through files, at points of the residual stream, of
// experts and of the router.
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/safetensors.h"
#include "engine/device_weights.h"
#include "engine/forward.h"
#include "kernels/shim/shim_backend.h"
#include "loaders/model/load.h"
#include "probes/edit_memory.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
namespace fs = std::filesystem;

const fs::path goldens = test::source_dir() / "tests/goldens";

// A model with two recorded runs, "clean" and "other", each in a trace and in a store.
class Lab {
 public:
  Lab(Backend& backend, const char* name)
      : backend_(backend),
        loaded_(load_model((goldens / name / "model").string())),
        weights_(upload_weights(backend, loaded_.model, loaded_.weights, {})),
        shape_(probe_shape(loaded_.model)),
        layer_(shape_.moe_layers().back()),
        pool_(backend, loaded_.model, 4) {
    TraceOptions options;
    options.dir = directory_ / "trace";
    options.shape = shape_;
    options.points = PointSet::parse("*", shape_);
    TraceWriter writer(options);
    auto store = std::make_shared<ActivationStore>("runs", shape_, options.points);
    for (ProbeSink* sink : {static_cast<ProbeSink*>(&writer), static_cast<ProbeSink*>(store.get())}) {
      Forward forward(backend_, loaded_.model, weights_, 0);
      for (int64_t sample = 0; sample < 2; ++sample) step(forward, sample, nullptr, sink);
      forward.flush(*sink);
    }
    const std::vector<std::string> ids = {"clean", "other"};
    writer.finish(ids, [](int64_t) { return json::Value::object(); });
    store->finish(ids);
    // A direction, and one per expert: the other run minus the clean one.
    const auto direction = [&](Point point, size_t n) {
      const auto a = store->row(point, layer_, 1, 3), b = store->row(point, layer_, 0, 3);
      std::vector<float> values(n);
      for (size_t i = 0; i < n; ++i) values[i] = a[i % a.size()] - b[i % b.size()];
      return values;
    };
    const size_t d = static_cast<size_t>(shape_.d_model),
                 e = static_cast<size_t>(shape_.layers[static_cast<size_t>(layer_)].n_experts);
    add("residual", {shape_.d_model}, direction(Point::resid_mid, d));
    add("experts", {static_cast<int64_t>(e), shape_.d_model}, direction(Point::expert_out, e * d));
    memory_.add(store);
  }

  // The logits of the record "clean" under an edit list in which @ stands for the recording, @NAME@ for a
  // vector, and # for a layer with a router.
  std::vector<float> logits(std::string edits, bool from_memory) {
    for (char& c : edits)
      if (c == '\'') c = '"';
    const std::string trace = (directory_ / "trace").string();
    for (const char* name : {"residual", "experts"}) {
      const std::string key = "@" + std::string(name) + "@";
      const std::string file = (directory_ / name).string() + ":" + name;
      for (size_t at; (at = edits.find(key)) != std::string::npos;)
        edits.replace(at, key.size(), from_memory ? "memory:" + std::string(name) : file);
    }
    for (size_t at; (at = edits.find('#')) != std::string::npos;) edits.replace(at, 1, std::to_string(layer_));
    for (size_t at; (at = edits.find('@')) != std::string::npos;)
      edits.replace(at, 1, from_memory ? "memory:runs" : trace);
    const json::Value value = json::parse(edits, "edits");
    const auto plan = EditPlan::parse(json::Ref(value, "edits"), ".", shape_, 7, from_memory ? &memory_ : nullptr);
    Forward forward(backend_, loaded_.model, weights_, plan->max_slots());
    return step(forward, 0, plan->bind({"clean", 0, n_tokens, {}}).get(), nullptr);
  }

 private:
  static constexpr int64_t n_tokens = 14;

  std::vector<float> step(Forward& forward, int64_t sample, const BoundEdits* edits, ProbeSink* sink) {
    std::vector<int32_t> tokens;
    uint32_t seed = static_cast<uint32_t>(sample) + 11;
    for (int64_t t = 0; t < n_tokens; ++t)
      tokens.push_back(static_cast<int32_t>(((seed = seed * 1664525u + 1013904223u) >> 8) %
                                            static_cast<uint32_t>(loaded_.model.n_vocab)));
    SequenceCache kv(pool_);
    Batch batch;
    batch.append(kv, edits, sample, tokens, {}, n_tokens, n_tokens);
    const Tensor logits = forward.run(batch, sink).logits;
    std::vector<float> host(static_cast<size_t>(logits.rows * logits.cols));
    backend_.download(host.data(), logits.data, host.size() * sizeof(float));
    return host;
  }
  void add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    const safetensors::TensorHeader headers[] = {{name, "F32", shape}};
    safetensors::Writer writer(directory_ / name, headers);
    writer.write(values.data(), values.size() * sizeof(float));
    writer.finish();
    memory_.add(name, {std::move(shape), std::move(values)});
  }

  Backend& backend_;
  LoadedModel loaded_;
  Weights weights_;
  ModelShape shape_;
  int32_t layer_;  // that the edits name: the last with a router
  KvPool pool_;
  test::TemporaryDirectory directory_;
  EditMemory memory_;
};

const char* const edits[] = {
    // The residual stream
    "[{'op': 'patch', 'point': 'layer.#.resid_mid', 'from': '@', 'sample': 'other'}]",
    "[{'op': 'patch', 'point': 'embed', 'from': '@', 'sample': 'other', 'tokens': {'positions': '3:6'}}]",
    "[{'op': 'add', 'point': 'layer.#.resid_mid', 'vector': '@residual@', 'scale': 0.7}]",
    "[{'op': 'ablate', 'point': 'layer.#.attn.out', 'value': '@residual@'}]",
    "[{'op': 'ablate', 'point': 'layer.#.resid_in', 'value': {'mean_of': '@'}, 'tokens': {'positions': '2:'}}]",
    // Heads
    "[{'op': 'patch', 'point': 'layer.#.attn.k', 'from': '@', 'sample': 'other', 'tokens': {'positions': '3:9'}}]",
    "[{'op': 'ablate', 'point': 'layer.#.attn.q', 'value': {'mean_of': '@'}, 'tokens': {'positions': '2:'}}]",
    // Attention
    "[{'op': 'patch', 'point': 'layer.#.attn.q', 'from': '@', 'sample': 'other'}]",
    "[{'op': 'patch', 'point': 'layer.#.attn.k', 'from': '@', 'sample': 'other', 'tokens': {'positions': '0:5'}}]",
    "[{'op': 'ablate', 'point': 'layer.#.attn.z', 'value': {'mean_of': '@'}}]",
    // Experts
    "[{'op': 'patch', 'point': 'layer.#.expert.out', 'from': '@', 'sample': 'other'}]",
    "[{'op': 'patch', 'point': 'layer.#.expert.hidden', 'from': '@', 'sample': 'other', 'experts': [0, 1, 2]}]",
    "[{'op': 'add', 'point': 'layer.#.expert.out', 'vector': '@experts@'}]",
    "[{'op': 'ablate', 'point': 'layer.#.expert.out', 'value': '@experts@', 'experts': [0, 1, 3]}]",
    "[{'op': 'patch', 'point': 'layer.#.moe.out', 'from': '@', 'sample': 'other'}]",
    "[{'op': 'add', 'point': 'layer.#.expert.in', 'vector': '@residual@'}]",
    // The router
    "[{'op': 'patch', 'point': 'layer.#.router.in', 'from': '@', 'sample': 'other'}]",
    "[{'op': 'add', 'point': 'layer.#.router.in', 'vector': '@residual@', 'scale': 3}]",
    "[{'op': 'ablate', 'point': 'layer.#.router.in', 'value': '@residual@'}]",
    "[{'op': 'ablate', 'point': 'layer.#.router.in', 'value': {'mean_of': '@'}}]",
    "[{'op': 'replay', 'trace': '@', 'sample': 'other'}]",
    "[{'op': 'replay', 'trace': '@', 'sample': 'other', 'layers': '#', 'weights': 'recorded'}]",
};

}  // namespace

TEST_CASE("edits from memory have the bits of the same edits from files" *
          doctest::test_suite("repeats: every edit of every family, twice")) {
  for (const char* name : {"deepseek_v2_lite", "olmoe", "qwen2_moe", "gpt_oss"}) {
    CAPTURE(std::string(name));
    for (const bool device : {false, true}) {
      CAPTURE(device);
      const auto backend = device ? make_shim_backend({}) : make_cpu_backend({});
      Lab lab(*backend, name);
      const std::vector<float> plain = lab.logits("[]", false);
      for (const char* text : edits) {
        CAPTURE(std::string(text));
        const std::vector<float> file = lab.logits(text, false), held = lab.logits(text, true);
        REQUIRE(file.size() == held.size());
        CHECK(std::memcmp(file.data(), held.data(), file.size() * sizeof(float)) == 0);
        CHECK(std::memcmp(file.data(), plain.data(), file.size() * sizeof(float)) != 0);
      }
      // A run patched with its own recording stays as it is.
      const std::vector<float> own =
          lab.logits("[{'op': 'patch', 'point': 'resid_out', 'from': '@'}, {'op': 'replay', 'trace': '@'}]", true);
      CHECK(std::memcmp(own.data(), plain.data(), own.size() * sizeof(float)) == 0);
    }
  }
}
