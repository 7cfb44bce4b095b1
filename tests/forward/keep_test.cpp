// Buffers that keep what the layers made: the same logits as with buffers that are written again, and in memory what a
// probe recorded, bit for bit.
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <optional>

#include "engine/device_weights.h"
#include "engine/forward.h"
#include "kernels/shim/shim_backend.h"
#include "loaders/model/load.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using enum Activations;
namespace fs = std::filesystem;

const fs::path goldens = test::source_dir() / "tests/goldens";
const char* const families[] = {"deepseek_v2_lite", "deepseek_v2_full", "mixtral_bf16", "olmoe",
                                "qwen2_moe",        "qwen3_moe",        "gpt_oss",      "gpt_oss_mxfp4"};

// A model on a backend, and two sequences to run: 19 and 6 tokens.
struct Setup {
  Backend& backend;
  LoadedModel loaded;
  Weights weights;
  KvPool pool;
  std::shared_ptr<const BoundEdits> edits;  // of the first sequence

  Setup(Backend& backend, const char* name)
      : backend(backend),
        loaded(load_model((goldens / name / "model").string())),
        weights(upload_weights(backend, loaded.model, loaded.weights, {})),
        pool(backend, loaded.model, 8) {}

  void edit(const std::string& text) {
    const json::Value value = json::parse(text, "edits");
    edits = EditPlan::parse(json::Ref(value, "edits"), ".", probe_shape(loaded.model), 7)->bind({"r", 0, 19, {}});
  }
  // The prompts in one step, with the logits of every row.
  std::vector<float> run(Forward& forward, ProbeSink* sink) {
    SequenceCache first(pool), second(pool);
    Batch batch;
    batch.append(first, edits.get(), 0, tokens(19, 3), {}, 19, 19);
    batch.append(second, nullptr, 1, tokens(6, 8), {}, 6, 6);
    const Outputs outputs = forward.run(batch, sink);
    return host(outputs.logits);
  }
  std::vector<int32_t> tokens(int64_t n, uint32_t seed) const {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i)
      ids.push_back(static_cast<int32_t>(((seed = seed * 1664525u + 1013904223u) >> 8) %
                                         static_cast<uint32_t>(loaded.model.n_vocab)));
    return ids;
  }
  // A tensor of any dtype as floats.
  std::vector<float> host(Tensor x) const {
    const size_t size = dtype_size(x.dtype);
    std::vector<unsigned char> raw(static_cast<size_t>(x.rows * x.stride) * size);
    backend.download(raw.data(), x.data, raw.size());
    std::vector<float> values;
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < x.cols; ++c) {
        const unsigned char* from = raw.data() + static_cast<size_t>(r * x.stride + c) * size;
        uint32_t bits = 0;
        std::memcpy(&bits, from, size);
        if (x.dtype == DType::bf16) bits <<= 16;
        float value;
        std::memcpy(&value, &bits, 4);
        values.push_back(x.dtype == DType::i32 ? static_cast<float>(static_cast<int32_t>(bits)) : value);
      }
    }
    return values;
  }
};

// Where the values of a point are kept; nullopt for points that no buffer holds (of the cache, or made to be recorded).
struct Place {
  Activations what;
  int64_t layer;
};
std::optional<Place> place_of(const PointAt& at, const Model& model) {
  const int64_t n_layers = model.n_layers();
  switch (at.point) {
    case Point::embed: return Place{embedded, -1};
    case Point::resid_in: return Place{resid_in, at.layer};
    case Point::attn_q:
      return Place{
          std::holds_alternative<Gqa>(model.layers[static_cast<size_t>(at.layer)].attention) ? query : query_absorbed,
          at.layer};
    case Point::attn_z: return Place{attended, at.layer};
    case Point::attn_out: return Place{attn_out, at.layer};
    case Point::resid_mid: return Place{resid_mid, at.layer};
    case Point::router_logits: return Place{router_logits, at.layer};
    case Point::router_scores: return Place{router_scores, at.layer};
    case Point::router_ids: return Place{route_ids, at.layer};
    case Point::router_weights: return Place{route_weights, at.layer};
    case Point::router_margin: return Place{route_margin, at.layer};
    case Point::router_group_margin: return Place{route_group_margin, at.layer};
    case Point::router_in:
    case Point::expert_in:
    case Point::shared_in: return Place{ffn_normed, at.layer};  // as long as no edit parts them
    case Point::expert_hidden: return Place{expert_hidden, at.layer};
    case Point::expert_out: return Place{expert_out, at.layer};
    case Point::shared_out: return Place{shared_out, at.layer};
    case Point::moe_out:
    case Point::mlp_out: return Place{ffn_out, at.layer};
    case Point::resid_out: return at.layer + 1 < n_layers ? Place{resid_in, at.layer + 1} : Place{resid_final, -1};
    case Point::final_normed: return Place{final_normed, -1};
    default: return std::nullopt;
  }
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Runs the setup three times: with buffers written again, with a probe at every point, and with buffers that keep.
void compare(Setup& setup) {
  const ModelShape shape = probe_shape(setup.loaded.model);
  const int32_t n_slots = setup.edits ? setup.edits->plan().max_slots() : 0;
  Forward plain(setup.backend, setup.loaded.model, setup.weights, n_slots);
  const std::vector<float> want = setup.run(plain, nullptr);
  test::MemorySink sink(PointSet::parse("*", shape));
  Forward recorded(setup.backend, setup.loaded.model, setup.weights, n_slots);
  CHECK(same(setup.run(recorded, &sink), want));
  Forward keeping(setup.backend, setup.loaded.model, setup.weights, n_slots, Buffers::Policy::keep);
  CHECK(same(setup.run(keeping, nullptr), want));
  int64_t n_compared = 0;
  for (const PointAt& at : PointSet::parse("*", shape).all()) {
    if (at.point == Point::logits) continue;  // compared above
    const std::string name = point_name(at.point, at.layer);
    CAPTURE(name);
    const auto place = place_of(at, setup.loaded.model);
    if (!place) continue;
    ++n_compared;
    const Tensor kept = keeping.buffers().kept(place->what, place->layer);
    REQUIRE(kept);
    std::vector<float> both = sink.samples.at(0).at(name).data;
    const auto& second = sink.samples.at(1).at(name).data;
    both.insert(both.end(), second.begin(), second.end());
    CHECK(same(setup.host(kept), both));
    CHECK_FALSE(plain.buffers().kept(place->what, place->layer));
  }
  CHECK(n_compared >= 5 * setup.loaded.model.n_layers() + 2);  // a dense layer has five, and there are two of no layer
}

// The CPU, and the kernels of a device run by the shim.
void with_backends(const std::function<void(Backend&)>& check) {
  check(*make_cpu_backend({}));
  check(*make_shim_backend({}));
}

}  // namespace

TEST_CASE("kept buffers hold what a probe recorded") {
  for (const char* name : families) {
    CAPTURE(std::string(name));
    with_backends([&](Backend& backend) {
      CAPTURE(backend.name());
      Setup setup(backend, name);
      compare(setup);
    });
  }
}

TEST_CASE("kept buffers hold what later layers saw of an edited run" *
          doctest::test_suite("repeats: the same forward, edited")) {
  // Each writes in place what the layer made, or changes the route.
  const char* const edits = R"([
      {"op": "deactivate", "mode": "ban", "experts": [0, 2]}, {"op": "top_k", "k": 3},
      {"op": "ablate", "point": "embed", "value": "zero", "tokens": {"positions": "2:4"}},
      {"op": "ablate", "point": "attn.out", "value": "zero", "tokens": {"positions": "5:7"}},
      {"op": "ablate", "point": "resid_mid", "value": "zero", "tokens": {"positions": "6:7"}},
      {"op": "ablate", "point": "expert.hidden", "value": "zero", "experts": [1], "tokens": {"positions": "8:"}},
      {"op": "ablate", "point": "expert.out", "value": "zero", "experts": [3], "tokens": {"positions": "9:"}},
      {"op": "ablate", "point": "moe.out", "value": "zero", "tokens": {"positions": "10:11"}},
      {"op": "ablate", "point": "final.normed", "value": "zero", "tokens": {"positions": "11:12"}}])";
  for (const char* name : {"deepseek_v2_lite", "mixtral_bf16", "qwen2_moe", "gpt_oss"}) {
    CAPTURE(std::string(name));
    with_backends([&](Backend& backend) {
      Setup setup(backend, name);
      setup.edit(edits);
      compare(setup);
    });
  }
}

TEST_CASE("kept buffers hold the inputs of ops that work in place") {
  const auto backend = make_cpu_backend({});
  int64_t n_raw = 0, n_shared = 0;
  for (const char* name : families) {
    CAPTURE(std::string(name));
    Setup setup(*backend, name);
    Forward forward(*backend, setup.loaded.model, setup.weights, 0, Buffers::Policy::keep);
    setup.run(forward, nullptr);
    const Buffers& buffers = forward.buffers();
    // What an op makes of its kept input.
    const auto product = [&](Tensor x, const Matrix& w, Vector bias) {
      std::vector<float> out(static_cast<size_t>(x.rows * w.rows));
      backend->matmul(Tensor(out.data(), x.rows, w.rows), x, w, bias);
      return out;
    };
    for (int64_t l = 0; l < setup.loaded.model.n_layers(); ++l) {
      CAPTURE(l);
      const LayerWeights& weights = setup.weights.layers[static_cast<size_t>(l)];
      const Tensor h = buffers.kept(attn_normed, l);
      REQUIRE(h);
      if (const auto* gqa = std::get_if<GqaWeights>(&weights.attention)) {
        const Gqa& a = std::get<Gqa>(setup.loaded.model.layers[static_cast<size_t>(l)].attention);
        const bool in_place = a.qk_norm != Gqa::QkNorm::none || a.clip > 0;
        REQUIRE(static_cast<bool>(buffers.kept(query_raw, l)) == in_place);
        CHECK(same(setup.host(buffers.kept(attn_out, l)), product(buffers.kept(attended, l), gqa->o, gqa->o_bias)));
        if (in_place) {
          ++n_raw;
          CHECK(same(setup.host(buffers.kept(query_raw, l)), product(h, gqa->q, gqa->q_bias)));
          CHECK(same(setup.host(buffers.kept(key_raw, l)), product(h, gqa->k, gqa->k_bias)));
          CHECK(same(setup.host(buffers.kept(value_raw, l)), product(h, gqa->v, gqa->v_bias)));
        }
      } else {
        const auto& mla = std::get<MlaWeights>(weights.attention);
        CHECK(same(setup.host(buffers.kept(latent_raw, l)), product(h, mla.kv_a, mla.kv_a_bias)));
        CHECK(same(setup.host(buffers.kept(attn_out, l)), product(buffers.kept(attended, l), mla.o, mla.o_bias)));
      }
      const Tensor raw = buffers.kept(shared_raw, l), gate = buffers.kept(shared_gate, l);
      if (!raw) continue;
      ++n_shared;
      std::vector<float> scaled = setup.host(raw);
      backend->sigmoid_scale(Tensor(scaled.data(), raw.rows, raw.cols), gate);
      CHECK(same(setup.host(buffers.kept(shared_out, l)), scaled));
    }
  }
  CHECK(n_raw > 0);
  CHECK(n_shared > 0);
}

TEST_CASE("kept buffers hold the last step alone, and give a layer back") {
  const auto backend = make_cpu_backend({});
  Setup setup(*backend, "qwen2_moe");
  Forward keeping(*backend, setup.loaded.model, setup.weights, 0, Buffers::Policy::keep);
  Forward plain(*backend, setup.loaded.model, setup.weights, 0);
  SequenceCache kept_kv(setup.pool), plain_kv(setup.pool);
  const std::vector<int32_t> prompt = setup.tokens(9, 4);
  std::vector<float> kept_row, plain_row;
  for (size_t t = 0; t < prompt.size(); t += 3) {
    const auto step = [&](Forward& forward, SequenceCache& kv) {
      Batch batch;
      batch.append(kv, nullptr, 0, std::span(prompt).subspan(t, 3), {}, 9, 1);
      return setup.host(forward.run(batch, nullptr).logits);
    };
    CHECK(same(step(keeping, kept_kv), step(plain, plain_kv)));
    Buffers& buffers = keeping.buffers();
    CHECK(buffers.kept(resid_in, 1).rows == 3);
    CHECK_FALSE(buffers.kept(final_normed, -1));  // of picked rows alone
    CHECK(buffers.kept(final_picked, -1).rows == 1);
    const size_t before = buffers.bytes();
    buffers.release(1);
    CHECK(buffers.bytes() < before);
    CHECK_FALSE(buffers.kept(resid_in, 1));
    CHECK(buffers.kept(resid_in, 0));
  }
}

TEST_CASE("a step is finished once") {
  const auto backend = make_cpu_backend({});
  Setup setup(*backend, "olmoe");
  Forward forward(*backend, setup.loaded.model, setup.weights, 0);
  setup.run(forward, nullptr);
  CHECK_THROWS_WITH_AS(forward.finish(), "forward: expected a step to finish, found none that was launched", Error);
}

TEST_CASE("kept buffers take what their header says") {
  const auto backend = make_cpu_backend({});
  constexpr int64_t o = 4, n_tokens = 25;
  for (const char* name : families) {
    CAPTURE(std::string(name));
    Setup setup(*backend, name);
    const Model& model = setup.loaded.model;
    Forward forward(*backend, model, setup.weights, 0, Buffers::Policy::keep);
    setup.run(forward, nullptr);
    const int64_t d = model.d_model, k = model.n_active();
    int64_t per_token = 4 * d + 4 * d + o * d + 4 * model.n_vocab;  // of no layer
    for (const Layer& layer : model.layers) {
      per_token += 16 * d + 2 * o * d;
      if (const auto* a = std::get_if<Gqa>(&layer.attention)) {
        const bool twice = a->qk_norm != Gqa::QkNorm::none || a->clip > 0;
        per_token += 4 * (a->n_heads + 2 * a->n_kv_heads) * a->d_head * (twice ? 2 : 1) + o * a->n_heads * a->d_head;
      } else {
        const Mla& m = std::get<Mla>(layer.attention);
        per_token += 4 * m.n_heads * (m.d_nope + 2 * m.d_rope + m.d_latent) + 8 * (m.d_latent + m.d_rope) +
                     o * m.n_heads * (m.d_latent + m.d_value) + (4 + o) * m.q_rank;
      }
      if (const Moe* moe = layer.moe()) {
        per_token +=
            8 * moe->router.n_experts + 8 * k + (moe->router.limits_groups() ? 8 : 4) + k * (4 * d + o * moe->d_ff);
        if (moe->d_ff_shared > 0) per_token += (moe->shared_gate ? 8 * d + 4 : 4 * d) + o * moe->d_ff_shared;
      } else {
        per_token += o * std::get<Dense>(layer.ffn).d_ff;
      }
    }
    CHECK(static_cast<int64_t>(forward.buffers().bytes()) == n_tokens * per_token);
  }
}
