// A layer's experts as one block: where it must answer as the layer does, what is written, and what transformers makes
// of it (tests/train/one_block_goldens.py).
#include "train/one_block.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>

#include "base/error.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"
#include "train/block_loss.h"
#include "train/refit.h"
#include "train/teacher_blocks.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

const char* const block_models[] = {"mixtral",          "olmoe",   "qwen2_moe",    "qwen3_moe", "deepseek_v2_lite",
                                    "deepseek_v2_full", "gpt_oss", "gpt_oss_mxfp4"};

// Tokens of the scripts' record(i); all but the first count.
Example whole_record(int64_t i) {
  std::vector<int32_t> tokens = test::record_tokens(i);
  Example made;
  made.targets.assign(tokens.begin() + 1, tokens.end());
  made.targets.push_back(-1);
  made.prompt = std::make_shared<Prompt>("r" + std::to_string(i), std::move(tokens));
  return made;
}

struct Records {
  std::vector<Example> own;
  std::vector<const Example*> list;
  explicit Records(int64_t n) {
    for (int64_t i = 0; i < n; ++i) own.push_back(whole_record(i));
    for (const Example& example : own) list.push_back(&example);
  }
};

// Routes too.
class Routes final : public ProbeSink {
 public:
  Routes(TeacherBlocks& blocks, int32_t layer) : blocks_(blocks), layer_(layer) {}
  bool wants(Point point, int32_t layer) const override {
    return layer == layer_ &&
           (blocks_.wants(point, layer) || point == Point::router_ids || point == Point::router_weights);
  }
  void begin(const StepRows& rows) override {
    n_ = rows.n_rows;
    blocks_.begin(rows);
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    if (point == Point::router_weights) {
      weights.assign(data, data + n_ * width);
    } else {
      blocks_.take(point, layer, data, width);
    }
  }
  void take_ids(int32_t, const int32_t* all, const int32_t*, int64_t n_slots) override {
    ids.assign(all, all + n_ * n_slots);
  }
  void end() override {}
  std::vector<int32_t> ids;
  std::vector<float> weights;

 private:
  TeacherBlocks& blocks_;
  int32_t layer_;
  int64_t n_ = 0;
};

std::vector<float> answers_of(Session& session, const Block& block, std::vector<float> x) {
  const auto rows = static_cast<int64_t>(x.size()) / block.d;
  std::vector<float> hidden(static_cast<size_t>(rows * block.n)), out(x.size());
  run_block(*session.backend, block.views().experts(), session.model.activation, Tensor(x.data(), rows, block.d),
            Tensor(hidden.data(), rows, block.n), Tensor(out.data(), rows, block.d));
  return out;
}

double distance(const std::vector<float>& got, const std::vector<float>& want) {
  double errors = 0, squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    errors += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    squares += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(errors / squares);
}

Matrix zero_matrix(const Matrix& like, Weights& owner) {
  auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(like.rows * like.cols));
  const Matrix out{values->data(), DType::f32, like.rows, like.cols, like.cols, nullptr, 0};
  owner.owners.push_back(std::move(values));
  return out;
}

std::vector<float> logits_of(Backend& backend, const Model& model, const Weights& weights, const Records& records) {
  Forward forward(backend, model, weights, 0);
  SequenceGroup run(backend, model, records.list);
  const Outputs outputs = forward.run(run.batch, nullptr);
  return {outputs.logits.data, outputs.logits.data + outputs.logits.rows * outputs.logits.cols};
}

}  // namespace

TEST_CASE("one block: with each token's own weights it is the layer") {
  for (const std::string name : block_models) {
    CAPTURE(name);
    Session session = loaders::open_session(test::golden_model(name), {});
    const Records records(1);
    Forward forward = session.forward(0);
    for (const int32_t layer : session.model.moe_layers()) {
      const Moe& moe = *session.model.layers[layer].moe();
      const int64_t d = session.model.d_model, k = moe.router.n_active;
      TeacherBlocks taught({layer}, d);
      Routes routes(taught, layer);
      SequenceGroup run(*session.backend, session.model, records.list);
      forward.run(run.batch, &routes);
      forward.flush(routes);
      std::vector<float> got;
      for (int64_t t = 0; t < taught.n_rows(); ++t) {
        BlockChoice choice;
        choice.layer = layer;
        std::map<int32_t, double> of_token;
        for (int64_t slot = t * k; slot < (t + 1) * k; ++slot)
          of_token[routes.ids[static_cast<size_t>(slot)]] =
              static_cast<double>(routes.weights[static_cast<size_t>(slot)]);
        for (const auto& [expert, weight] : of_token) {
          choice.keep.push_back(expert);
          choice.alpha.push_back(weight);
        }
        const std::vector<float> x(taught.in(layer).begin() + t * d, taught.in(layer).begin() + (t + 1) * d);
        if (moe.shared_gate) {
          const Matrix& gate = std::get<MoeWeights>(session.weights.layers[layer].ffn).shared_scale;
          double z = 0;
          for (int64_t c = 0; c < d; ++c)
            z += static_cast<double>(static_cast<const float*>(gate.data)[c]) * static_cast<double>(x[c]);
          choice.shared = 1 / (1 + std::exp(-z));
        }
        const std::vector<float> y =
            answers_of(session, concatenated(session.model, session.weights, choice, block_width(session.model, k)), x);
        got.insert(got.end(), y.begin(), y.end());
      }
      CHECK(distance(got, taught.out(layer)) <= 2e-6);
    }
    forward.drop_rows();
  }
}

TEST_CASE("one block: a router of zeros that chooses all experts is the concatenation of all") {
  for (const std::string name : block_models) {
    CAPTURE(name);
    Session session = loaders::open_session(test::golden_model(name), {});
    for (Layer& layer : session.model.layers) {
      auto* moe = std::get_if<Moe>(&layer.ffn);
      if (!moe) continue;
      moe->router.n_active = moe->router.n_experts;
      moe->router.n_groups = moe->router.n_groups_kept = 1;
    }
    for (LayerWeights& layer : session.weights.layers)
      if (auto* moe = std::get_if<MoeWeights>(&layer.ffn)) {
        moe->router = zero_matrix(moe->router, session.weights);
        if (moe->router_bias) moe->router_bias.data = static_cast<const float*>(moe->router.data);
        if (moe->shared_scale) moe->shared_scale = zero_matrix(moe->shared_scale, session.weights);
      }
    session.shape = probe_shape(session.model);
    const Records records(2);
    Forward forward = session.forward(0);
    const Calibration calibration = calibrate(forward, session.weights, session.shape, records.list, 4, 0, {}, 1, {});
    const int64_t n = session.model.n_experts();
    const std::vector<BlockChoice> choice =
        best_choice(session.model, session.weights, calibration, n, KeepScore::acp, *session.backend);
    std::vector<Block> blocks;
    for (const BlockChoice& one : choice)
      blocks.push_back(concatenated(session.model, session.weights, one, block_width(session.model, n)));
    ThreadPool pool(1);
    RefitSettings settings;
    settings.ridge = -1;
    for (const BlockFit& fit : refit(forward, records.list, blocks, settings, pool)) {
      CAPTURE(fit.layer);
      CHECK(fit.before <= 1e-12);  // the square of 1e-6
      CHECK(fit.mean_square > 0);
    }
  }
}

TEST_CASE("one block: the refit never leaves more error than there was, whatever shares a forward or its sums") {
  for (const std::string name : {"olmoe", "qwen2_moe", "gpt_oss"}) {
    CAPTURE(name);
    Session session = loaders::open_session(test::golden_model(name), {});
    const Records records(5);
    Forward forward = session.forward(0);
    Groups single;
    single.tokens = 1;
    const Calibration calibration = calibrate(forward, session.weights, session.shape, records.list, 16, 0, {}, 1, {});
    std::vector<std::vector<Block>> made;
    for (const bool apart : {false, true}) {
      std::vector<Block> blocks;
      for (const BlockChoice& one :
           best_choice(session.model, session.weights, calibration, 2, KeepScore::do_acp, *session.backend))
        blocks.push_back(concatenated(session.model, session.weights, one, block_width(session.model, 2)));
      ThreadPool pool(apart ? 3 : 1);
      RefitSettings settings;
      settings.ridge = default_ridge;
      if (apart) {
        settings.groups = single;
        settings.memory = 1;  // a run of the teacher for each layer
      }
      for (const BlockFit& fit : refit(forward, records.list, blocks, settings, pool)) {
        CHECK(fit.after < fit.before);
        CHECK(fit.before < 2);
      }
      made.push_back(std::move(blocks));
    }
    for (size_t b = 0; b < made[0].size(); ++b) CHECK(made[0][b].down == made[1][b].down);
  }
}

TEST_CASE("one block: scores rank experts as their formulas say") {
  Session session = loaders::open_session(test::golden_model("olmoe"), {});
  const Records records(4);
  Forward forward = session.forward(0);
  const Calibration calibration = calibrate(forward, session.weights, session.shape, records.list, 16, 0, {}, 1, {});
  int64_t tokens = 0;
  for (const Example* example : records.list) tokens += example->n_tokens();
  CHECK(calibration.tokens == tokens);
  for (const KeepScore score : {KeepScore::sf, KeepScore::cp, KeepScore::acp, KeepScore::reap}) {
    const std::vector<BlockChoice> choice =
        best_choice(session.model, session.weights, calibration, 3, score, *session.backend);
    for (size_t l = 0; l < choice.size(); ++l) {
      const auto value = [&](int32_t e) {
        const ExpertSums& expert = calibration.layers[l].experts[static_cast<size_t>(e)];
        if (expert.tokens() == 0) return -1.0;
        const auto n = static_cast<double>(expert.tokens());
        return score == KeepScore::sf    ? n
               : score == KeepScore::cp  ? expert.mean_weight()
               : score == KeepScore::acp ? n * expert.mean_weight()
                                         : expert.reap();
      };
      double least = 1e300;
      for (const int32_t e : choice[l].keep) least = std::min(least, value(e));
      for (int32_t e = 0; e < calibration.layers[l].n_experts; ++e)
        if (std::count(choice[l].keep.begin(), choice[l].keep.end(), e) == 0) CHECK(value(e) <= least);
      for (size_t i = 0; i < 3; ++i)
        CHECK(choice[l].alpha[i] ==
              doctest::Approx(calibration.layers[l].experts[static_cast<size_t>(choice[l].keep[i])].mean_weight()));
    }
  }
  // Experts that answer alike add nothing to the determinant but the first of them.
  for (LayerWeights& layer : session.weights.layers) {
    auto& moe = std::get<MoeWeights>(layer.ffn);
    for (size_t e = 1; e < 4; ++e) {
      moe.gate[e] = moe.gate[0];
      moe.up[e] = moe.up[0];
      moe.down[e] = moe.down[0];
    }
  }
  const Calibration alike = calibrate(forward, session.weights, session.shape, records.list, 16, 0, {}, 1, {});
  for (const BlockChoice& one :
       best_choice(session.model, session.weights, alike, 5, KeepScore::do_acp, *session.backend)) {
    CHECK(std::count_if(one.keep.begin(), one.keep.end(), [](int32_t e) { return e < 4; }) == 1);
    CHECK(one.keep.size() == 5);
  }
  CHECK_THROWS_AS(best_choice(session.model, session.weights, calibration, 9, KeepScore::sf, *session.backend), Error);
  CHECK_THROWS_AS(random_choice(session.model, calibration, 0, 0), Error);
  CHECK(random_choice(session.model, calibration, 3, 1)[0].keep ==
        random_choice(session.model, calibration, 3, 1)[0].keep);
}

TEST_CASE("one block: what is written is the student, in every family") {
  const test::TemporaryDirectory dir;
  for (const std::string name :
       {"mixtral", "mixtral_resaved", "olmoe", "qwen2_moe", "qwen2_moe_step_bf16", "qwen3_moe", "qwen3_moe_resaved",
        "deepseek_v2_lite", "deepseek_v2_full", "gpt_oss", "gpt_oss_mxfp4", "gpt_oss_resaved"})
    for (const int64_t keep : {1, 3}) {
      CAPTURE(name);
      CAPTURE(keep);
      Session session = loaders::open_session(test::golden_model(name), {});
      const Records records(2);
      Forward forward = session.forward(0);
      const Calibration calibration = calibrate(forward, session.weights, session.shape, records.list, 4, 0, {}, 1, {});
      const loaders::Rewrite rewrite(loaders::resolve_model(test::golden_model(name), nullptr).files, session.family,
                                     session.model);
      const Model model = rewrite.with_one_block(block_width(session.model, keep));
      int64_t width = 0;
      for (const Layer& layer : model.layers) width = layer.moe() ? layer.moe()->d_ff : std::get<Dense>(layer.ffn).d_ff;
      std::vector<Block> blocks;
      for (const BlockChoice& one :
           best_choice(session.model, session.weights, calibration, keep, KeepScore::acp, *session.backend))
        blocks.push_back(concatenated(session.model, session.weights, one, width));
      const ChangedModel student = with_blocks(session.model, session.weights, model, blocks, rewrite.block_dtype());
      const fs::path to = dir / (name + std::to_string(keep));
      rewrite.write(student, to);
      CHECK(rewrite.sizes(student).stored_bytes > 0);
      const std::vector<float> made = logits_of(*session.backend, student.model, student.weights, records);
      Session opened = loaders::open_session(to.string(), {});
      CHECK(opened.unknown_tensors.empty());
      CHECK(logits_of(*opened.backend, opened.model, opened.weights, records) == made);
    }
}

TEST_CASE("one block: what one expert alone does stays if and only if it is kept") {
  Session session = loaders::open_session(test::golden_model("olmoe"), {});
  const Records records(6);
  Forward forward = session.forward(0);
  const Calibration calibration = calibrate(forward, session.weights, session.shape, records.list, 4, 0, {}, 1, {});
  const LayerMeasures& measures = calibration.layers.front();
  int32_t planted = 0;
  for (int32_t e = 0; e < measures.n_experts; ++e)
    if (measures.experts[static_cast<size_t>(e)].tokens() > measures.experts[static_cast<size_t>(planted)].tokens())
      planted = e;
  // No other expert of the layer writes to dimension 3.
  constexpr int64_t dimension = 3;
  auto& moe = std::get<MoeWeights>(session.weights.layers[static_cast<size_t>(measures.layer)].ffn);
  for (int32_t e = 0; e < measures.n_experts; ++e) {
    Matrix& down = moe.down[static_cast<size_t>(e)];
    const Matrix zeros = zero_matrix(down, session.weights);
    auto* values = const_cast<float*>(static_cast<const float*>(zeros.data));
    for (int64_t r = 0; r < down.rows; ++r)
      if (e == planted || r != dimension)
        std::copy_n(static_cast<const float*>(down.data) + r * down.row_stride, down.cols, values + r * down.cols);
    down = zeros;
  }
  const auto error_in_dimension = [&](std::vector<int32_t> keep, double ridge) {
    BlockChoice choice;
    choice.layer = measures.layer;
    for (const int32_t e : keep)
      choice.alpha.push_back(measures.experts[static_cast<size_t>(e)].tokens() > 0
                                 ? measures.experts[static_cast<size_t>(e)].mean_weight()
                                 : 0);
    choice.keep = std::move(keep);
    std::vector<Block> blocks = {concatenated(session.model, session.weights, choice, block_width(session.model, 2))};
    ThreadPool pool(1);
    RefitSettings settings;
    settings.ridge = ridge;
    refit(forward, records.list, blocks, settings, pool);
    TeacherBlocks taught({measures.layer}, session.model.d_model);
    SequenceGroup run(*session.backend, session.model, records.list);
    forward.run(run.batch, &taught);
    forward.flush(taught);
    forward.drop_rows();
    const std::vector<float> got = answers_of(session, blocks.front(), taught.in(measures.layer));
    double errors = 0, squares = 0;
    for (int64_t t = 0; t < taught.n_rows(); ++t) {
      const auto at = static_cast<size_t>(t * session.model.d_model + dimension);
      const auto want = static_cast<double>(taught.out(measures.layer)[at]);
      errors += std::pow(static_cast<double>(got[at]) - want, 2);
      squares += want * want;
    }
    return errors / squares;
  };
  const int32_t other = planted == 0 ? 1 : 0, third = planted <= 1 ? 2 : 1;
  CHECK(error_in_dimension({std::min(planted, third), std::max(planted, third)}, default_ridge) < 0.6);
  CHECK(error_in_dimension({other, third}, -1) == 1);
}
