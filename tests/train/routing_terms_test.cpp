// Terms on the routing, held to PyTorch (tests/train/routing_goldens.py) and to values that are known by hand.
#include "train/routing_terms.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"
#include "train/trained_weights.h"
#include "train/training.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;
using namespace signalbox::engine;
using test::TrainingRun;
using Slopes = RoutingTerms::Slopes;

const json::Value& routing_golden() {
  static const json::Value value = json::parse_file(test::source_dir() / "tests/train/routing.json");
  return value;
}

RoutingTerm term_named(std::string_view name) {
  for (size_t i = 0; i < n_routing_terms; ++i)
    if (routing_term_name(static_cast<RoutingTerm>(i)) == name) return static_cast<RoutingTerm>(i);
  FAIL(name);
  return RoutingTerm::variance;
}

// Numbers alone: layers with routers of one kind.
Model routed_model(int64_t n_layers, int32_t n_experts, int32_t n_active, bool sigmoid) {
  Model model;
  model.source = "numbers";
  model.layers.resize(static_cast<size_t>(n_layers));
  for (Layer& layer : model.layers) {
    Moe moe;
    moe.router.n_experts = n_experts;
    moe.router.n_active = n_active;
    if (sigmoid) moe.router.score = Router::Score::sigmoid;
    layer.ffn = moe;
  }
  return model;
}

// A step whose rows are known, all in one run or each sequence in its own.
struct KnownStep {
  int64_t n_experts, n_active, width = 0;
  std::vector<int64_t> lengths;
  std::vector<float> logits, base, outputs;  // [layers, tokens, ...]
  std::vector<int32_t> ids;
  int64_t n_tokens() const {
    int64_t n = 0;
    for (const int64_t length : lengths) n += length;
    return n;
  }
  RoutedRows rows(int64_t layer, int64_t first, int64_t n) const {
    const auto part = [&](const auto& all, int64_t per_token) {
      return std::span(all.data() + (layer * n_tokens() + first) * per_token, static_cast<size_t>(n * per_token));
    };
    RoutedRows rows{static_cast<int32_t>(layer), n, n_experts, n_active, width, part(logits, n_experts),
                    part(ids, n_active),         {}};
    if (width > 0) rows.outputs = part(outputs, n_active * width);
    return rows;
  }
};

struct Found {
  double value = 0;
  std::vector<double> logits, outputs;  // as KnownStep's
};

Found run(const KnownStep& step, const Model& model, RoutingTermSettings settings, bool apart) {
  static const auto session = loaders::open_session((test::goldens_dir() / "mixtral/model").string(), {});
  settings.devices = 3;
  settings.devices_per_token = 2;
  RoutingTerms terms(*session.backend, model, settings, Weights());
  terms.begin_step(step.lengths);
  const int64_t layers = model.n_layers(), n = step.n_tokens();
  for (int64_t l = 0; l < layers && terms.needs_counts(); ++l) terms.count(step.rows(l, 0, n));
  Found found;
  found.logits.resize(step.logits.size());
  found.outputs.resize(step.outputs.size());
  std::vector<int64_t> parts = apart ? step.lengths : std::vector<int64_t>{n};
  int64_t first = 0;
  for (const int64_t length : parts) {
    terms.begin(length);
    for (int64_t l = layers - 1; l >= 0; --l) {
      const RoutedRows rows = step.rows(l, first, length);
      if (!step.base.empty())
        terms.set_anchor(static_cast<int32_t>(l), {step.base.data() + (l * n + first) * step.n_experts,
                                                   static_cast<size_t>(length * step.n_experts)});
      const Slopes slopes = terms.slopes(rows);
      std::copy(slopes.logits.begin(), slopes.logits.end(), found.logits.begin() + (l * n + first) * step.n_experts);
      if (terms.wants_outputs())
        std::copy(slopes.outputs.begin(), slopes.outputs.end(),
                  found.outputs.begin() + (l * n + first) * step.n_active * step.width);
    }
    first += length;
  }
  found.value = terms.values().at(0);
  return found;
}

Found run(const KnownStep& step, const Model& model, RoutingTerm term, double coefficient = 1, bool apart = false) {
  RoutingTermSettings settings;
  settings.coefficient(term) = coefficient;
  return run(step, model, settings, apart);
}

template <class T>
std::vector<T> list(const json::Ref& of) {
  std::vector<T> values;
  for (const json::Ref& item : of.items()) values.push_back(static_cast<T>(item.number()));
  return values;
}

}  // namespace

TEST_CASE("routing terms: values and gradients are PyTorch's, in runs of any size") {
  const json::Ref want = json::Ref(routing_golden(), "routing.json").at("terms");
  KnownStep step{6,
                 2,
                 4,
                 {3, 5},
                 list<float>(want.at("logits")),
                 list<float>(want.at("base")),
                 list<float>(want.at("outputs")),
                 list<int32_t>(want.at("ids"))};
  int n = 0;
  for (const char* kind : {"softmax ", "sigmoid "})
    for (size_t i = 0; i < n_routing_terms; ++i) {
      const auto term = static_cast<RoutingTerm>(i);
      const std::string name = kind + std::string(routing_term_name(term));
      if (!want.find(name)) continue;
      CAPTURE(name);
      ++n;
      const Model model = routed_model(2, 6, 2, kind[1] == 'i');
      const std::vector<double> slopes = list<double>(want.at(name).at("slopes"));
      for (const bool apart : {false, true}) {
        const Found found = run(step, model, term, 0.5, apart);
        CHECK(found.value == doctest::Approx(want.at(name).at("value").number()).epsilon(1e-9));
        const std::vector<double>& got = term == RoutingTerm::orthogonality ? found.outputs : found.logits;
        REQUIRE(got.size() == slopes.size());
        double worst = 0;
        for (size_t j = 0; j < got.size(); ++j) worst = std::max(worst, std::fabs(got[j] - 0.5 * slopes[j]));
        CHECK(worst <= 1e-9);
      }
    }
  CHECK(n == 15);
}

TEST_CASE("routing terms: known values") {
  using enum RoutingTerm;
  // Two layers, two experts, k = 1, each layer collapsed on another expert.
  KnownStep collapsed{2, 1, 0, {3}, {}, {}, {}, {0, 0, 0, 1, 1, 1}};
  for (int l = 0; l < 2; ++l)
    for (int t = 0; t < 3; ++t) {
      collapsed.logits.push_back(l == 0 ? 60.f : 0.f);
      collapsed.logits.push_back(l == 0 ? 0.f : 60.f);
    }
  const Model two = routed_model(2, 2, 1, false);
  CHECK(run(collapsed, two, balance_transformers).value == doctest::Approx(1));
  CHECK(run(collapsed, two, balance_switch).value == doctest::Approx(2));  // alpha E
  CHECK(run(collapsed, two, balance_sequence).value == doctest::Approx(2));
  // Zero logits, choices in turn: balance. transformers' value is k there, the others' 1, z-loss (ln E)^2.
  for (const int experts : {6, 18}) {
    const double squared = std::log(experts) * std::log(experts);
    KnownStep even{experts, 2, 2, {9, 9}, std::vector<float>(static_cast<size_t>(18 * experts)), {}, {}, {}};
    for (int t = 0; t < 18; ++t)
      for (int k = 0; k < 2; ++k) even.ids.push_back((2 * t + k) % experts);
    for (int i = 0; i < 36; ++i) even.outputs.insert(even.outputs.end(), {i % 2 ? 0.f : 2.f, i % 2 ? 3.f : 0.f});
    even.base = even.logits;
    const Model model = routed_model(1, experts, 2, false);
    CHECK(run(even, model, balance_transformers).value == doctest::Approx(2));
    CHECK(run(even, model, balance_switch).value == doctest::Approx(1));
    CHECK(run(even, model, balance_sequence).value == doctest::Approx(1));
    CHECK(run(even, model, balance_device).value == doctest::Approx(1));
    CHECK(run(even, model, z_loss).value == doctest::Approx(squared).epsilon(1e-12));
    CHECK(run(even, model, router_anchor).value == 0);
    CHECK(run(even, model, variance).value == doctest::Approx(0));
    CHECK(run(even, model, orthogonality).value == 0);
    for (const double slope : run(even, model, balance_switch).logits) CHECK(std::fabs(slope) <= 1e-12);
  }
  for (const auto& [experts, squared] : {std::pair(8, 4.3241), std::pair(16, 7.6872), std::pair(64, 17.2963)}) {
    const KnownStep one{experts, 1, 0, {1}, std::vector<float>(static_cast<size_t>(experts)), {}, {}, {0}};
    const double value = run(one, routed_model(1, experts, 1, false), z_loss).value;
    CHECK(std::fabs(value - squared) <= 5e-5);
  }
}

TEST_CASE("routing terms: selection biases follow the load, and stay at balance") {
  std::vector<float> biases = {0, 1, 0, 0};
  const std::vector<int64_t> even = {3, 3, 3, 3}, uneven = {6, 0, 3, 3};
  update_biases(biases, even, 0.001);
  CHECK(biases == std::vector<float>{0, 1, 0, 0});
  update_biases(biases, uneven, 0.25);
  CHECK(biases == std::vector<float>{-0.25, 1.25, 0, 0});
  CHECK(load_violation({even, uneven}) == doctest::Approx(0.5));
}

TEST_CASE("routing terms: what a model cannot have is refused by the flag's name") {
  const auto refused = [](const Model& model, RoutingTerm term, int64_t devices, bool counts = false) {
    RoutingTermSettings settings;
    settings.coefficient(term) = counts ? 0 : 1;
    settings.devices = devices;
    settings.counts_load = counts;
    try {
      check_routing_terms(settings, model);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  using enum RoutingTerm;
  const Model plain = routed_model(2, 6, 2, false), sigmoid = routed_model(2, 6, 2, true);
  CHECK(refused(plain, balance_switch, 0).empty());
  CHECK(refused(sigmoid, balance_transformers, 0).starts_with("--balance transformers: expected"));
  CHECK(refused(plain, balance_device, 4).starts_with("--devices: expected a number that divides the 6 experts"));
  CHECK(refused(routed_model(1, 6, 1, false), orthogonality, 0).starts_with("--orthogonality: expected at least two"));
  CHECK(refused(plain, z_loss, 0, true).starts_with("--balance bias: expected routers with a selection bias"));
  CHECK(refused(routed_model(0, 6, 2, false), z_loss, 0).starts_with("--z-loss: expected a model with routed experts"));
}

TEST_CASE("routing terms: trainings with all terms, and with routers that see all experts, are PyTorch's") {
  const test::TemporaryDirectory dir;
  for (const std::string name : {"mixtral", "olmoe"})
    for (const bool all_experts : {false, true}) {
      CAPTURE(name);
      CAPTURE(all_experts);
      TrainingRun run(name);
      run.settings.schedule = {Shape::constant, 0, 3, 0};
      run.settings.clip = 0;
      run.settings.groups.tokens = name == "olmoe" ? 30 : 512;
      run.n_held_out = 0;
      RoutingTuning tuning;
      tuning.terms.all_experts = all_experts;
      if (!all_experts) {
        for (const auto& [term, coefficient] : std::map<std::string, double>{{"balance_switch", 0.3},
                                                                             {"balance_transformers", 0.2},
                                                                             {"balance_sequence", 0.25},
                                                                             {"balance_device", 0.15},
                                                                             {"balance_communication", 0.35},
                                                                             {"z_loss", 0.05},
                                                                             {"router_anchor", 2.0},
                                                                             {"orthogonality", 0.4},
                                                                             {"variance", 3.0}})
          tuning.terms.coefficient(term_named(term)) = coefficient;
        tuning.terms.devices = 4;
        tuning.terms.devices_per_token = 2;
        tuning.expert_anchor = 0.7;
      }
      run.routing = tuning;
      const std::string out = name + (all_experts ? "-all" : "");
      REQUIRE(run.run(dir / out) == TrainingEnd::complete);
      const json::Ref want =
          json::Ref(routing_golden(), "routing.json").at("models").at(name).at(all_experts ? "all_experts" : "terms");
      const CsvTable log = CsvTable::read(dir / out / "log.csv");
      REQUIRE(log.n_rows() == 3);
      for (size_t s = 0; s < 3; ++s)
        for (const auto& one : want.at("steps")[s].members()) {
          const std::string& column = one.first;
          CAPTURE(column);
          CAPTURE(s);
          const double got = log.number(s, log.column(column)), expected = one.second.number();
          CHECK(std::fabs(got - expected) <= (column == "grad_norm" ? 1e-3 : 1e-4) * std::fabs(expected) + 1e-6);
        }
      test::check_changes(want.at("changes"), run.model, dir / out / "model", 1e-3);
    }
}

TEST_CASE("routing terms: a training moves selection biases by each step's loads, and they go into the model") {
  Session session = loaders::open_session((test::goldens_dir() / "mixtral/model").string(), {});
  std::vector<std::vector<float>> zeros(3, std::vector<float>(8));
  for (size_t l = 0; l < 3; ++l) {
    std::get<Moe>(session.model.layers[l].ffn).router.selection_bias = true;
    std::get<MoeWeights>(session.weights.layers[l].ffn).selection_bias = {zeros[l].data(), 8};
  }
  TrainedWeights weights(session, wanted_weights("router", session), 1);
  RoutingTuning tuning;
  tuning.bias_rate = 0.25;
  RoutingTraining routing(session, tuning, weights.before(), &weights);
  const test::TemporaryDirectory dir;
  Training training;
  training.session = &session;
  training.trained = &weights;
  training.routing = &routing;
  for (int64_t i = 0; i < 4; ++i) training.data.push_back(test::example(i));
  training.dir = dir / "out";
  training.manifest.schema = training_schema;
  training.settings.schedule.steps = 3;
  training.settings.lr = 0;
  training.settings.groups.tokens = 20;
  // With a rate of 0 the biases alone change routes: the loads of the next step are those of these biases.
  std::vector<std::vector<float>> expected(3, std::vector<float>(8));
  double violation = 0;
  training.on_step = [&](int64_t step, int64_t, double) {
    for (size_t l = 0; l < 3; ++l) update_biases(expected[l], routing.loads()[l], tuning.bias_rate);
    if (step == 1) violation = load_violation(routing.loads());
  };
  training.write_result = [&] {
    ChangedModel changed = weights.changed([](const TensorId&) { return DType::f32; });
    routing.put(changed);
    int64_t replaced = 0;
    for (const TensorId& id : changed.replaced) replaced += id.role == Role::selection_bias;
    CHECK(replaced == 3);
    for (size_t l = 0; l < 3; ++l) {
      const Vector& bias = std::get<MoeWeights>(changed.weights.layers[l].ffn).selection_bias;
      CHECK(std::vector<float>(bias.data, bias.data + 8) == expected[l]);
    }
    std::filesystem::create_directory(training.dir / checkpoint_dir);
  };
  REQUIRE(train::train(training) == TrainingEnd::complete);
  const CsvTable log = CsvTable::read(dir / "out/log.csv");
  CHECK(log.number(0, log.column("load_violation")) == doctest::Approx(violation));
  CHECK(violation > 0);
  CHECK(log.number(2, log.column("load_violation")) != log.number(0, log.column("load_violation")));
  CHECK(routing.state().size() == 24);
  const std::vector<double> state = routing.state();
  routing.restore(std::vector<double>(24, 0.5));
  CHECK(routing.state() == std::vector<double>(24, 0.5));
  routing.restore(state);
  CHECK(routing.state() == state);
}
