// The router of a device against the CPU's: routes and edits of the same logits exactly, the product within rounding.
#include <map>

#include "tests/device/device.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

using Ids = std::vector<int32_t>;

// A step with the lists that it points to.
struct HostStep {
  RouterStep step;
  Ids experts, replay_ids, replay_index;
  std::vector<float> rates, replay_weights;
};

// A batch of tokens with the programs of their sequences.
struct RouteCase {
  Router router;
  int64_t n_tokens = 1;
  std::vector<float> logits, selection_bias;    // [n_tokens, n_experts], [n_experts]
  std::vector<std::vector<HostStep>> programs;  // by sequence; empty: null
  Ids positions, sequences;
  std::vector<uint8_t> active;  // [n_tokens, n_edits]
  int32_t n_edits = 0, layer = 3, n_slots = 0;
  std::vector<uint64_t> hashes;
  std::vector<uint32_t> samples;
};

struct RouteResult {
  Ids ids, original_ids, record_ids, record_original_ids;
  std::vector<float> weights, margin, group_margin, scores, shared_scale, logits;
  std::vector<float> record_weights, record_margin, record_group_margin, record_logits, record_scores;
  std::vector<uint8_t> banned;
  std::vector<TokenEdits> edits;
  std::vector<uint64_t> faults;  // [sequences]
};

uint64_t first_fault(const RouteResult& r) { return *std::min_element(r.faults.begin(), r.faults.end()); }

// Where the logits come from: they are there already, or x is one-hot and the router's matrix holds them, so that the
// product is exact in any order.
enum class Logits { given, product };

constexpr uint32_t ring_steps = 3, ring_step = 7;  // slot 1

// Programs with everything that they point to in device memory.
class DevicePrograms {
 public:
  DevicePrograms(Backend& device, const std::vector<std::vector<HostStep>>& programs) : device_(device) {
    std::vector<RouterProgram> views;
    for (const std::vector<HostStep>& program : programs) {
      std::vector<RouterStep> steps;
      for (const HostStep& s : program) {
        RouterStep step = s.step;
        step.experts = keep(s.experts);
        step.n_listed = static_cast<int32_t>(s.experts.size());
        step.rates = keep(s.rates);
        step.replay_ids = keep(s.replay_ids);
        step.replay_weights = keep(s.replay_weights);
        step.replay_index = keep(s.replay_index);
        steps.push_back(step);
      }
      views.push_back({keep(steps), static_cast<int32_t>(steps.size())});
    }
    programs_ = keep(views);
  }
  const RouterProgram* data() const { return programs_; }

 private:
  template <class T>
  const T* keep(const std::vector<T>& values) {
    if (values.empty()) return nullptr;
    memory_.push_back(device_.allocate(values.size() * sizeof(T)));
    device_.upload(memory_.back().get(), values.data(), values.size() * sizeof(T));
    return static_cast<const T*>(memory_.back().get());
  }
  Backend& device_;
  std::vector<std::shared_ptr<void>> memory_;
  const RouterProgram* programs_ = nullptr;
};

RouteResult run(Backend& device, const RouteCase& c, Logits source) {
  const size_t n = static_cast<size_t>(c.n_tokens), n_experts = static_cast<size_t>(c.router.n_experts);
  const size_t slots = n * static_cast<size_t>(c.n_slots), all = n * n_experts, ring = ring_steps * (n + 1);
  const float unset = std::nanf("");
  const size_t width = static_cast<size_t>(c.n_slots);
  Buffer<int32_t> ids(device, Ids(slots, -7)), original_ids(device, Ids(slots, -7));
  Buffer<int32_t> record_ids(device, Ids(ring * width, -7)), record_original_ids(device, Ids(ring * width, -7));
  Buffer<float> weights(device, std::vector<float>(slots, unset)), margin(device, std::vector<float>(n, unset));
  Buffer<float> group_margin(device, std::vector<float>(n, unset));
  Buffer<float> record_group_margin(device, std::vector<float>(ring, -7));
  Buffer<float> scores(device, std::vector<float>(all, unset)), shared_scale(device, std::vector<float>(n, unset));
  Buffer<float> record_weights(device, std::vector<float>(ring * width, -7));
  Buffer<float> record_margin(device, std::vector<float>(ring, -7));
  Buffer<float> record_logits(device, std::vector<float>(ring * n_experts, -7));
  Buffer<float> record_scores(device, std::vector<float>(ring * n_experts, -7));
  Buffer<uint8_t> banned(device, std::vector<uint8_t>(all, 9));
  Buffer<TokenEdits> edits(device, std::vector<TokenEdits>(n, TokenEdits{5, 70, 3}));
  Buffer<uint64_t> faults(device, std::vector<uint64_t>(c.hashes.size(), no_fault));
  Buffer<uint32_t> step(device, {ring_step});
  Route out;
  out.n_slots = c.n_slots;
  out.ids = ids.data(), out.original_ids = original_ids.data(), out.weights = weights.data();
  out.margin = margin.data(), out.scores = scores.data(), out.shared_scale = shared_scale.data();
  out.group_margin = group_margin.data();
  out.banned = banned.data(), out.faults = faults.data(), out.edits = edits.data();
  out.record.step = step.data();
  out.record.n_steps = ring_steps;
  out.record.step_stride = c.n_tokens + 1;
  out.record.ids = record_ids.data(), out.record.original_ids = record_original_ids.data();
  out.record.weights = record_weights.data(), out.record.margin = record_margin.data();
  out.record.group_margin = record_group_margin.data();
  out.record.logits = record_logits.data(), out.record.scores = record_scores.data();

  const DevicePrograms programs(device, c.programs);
  Buffer<int32_t> positions(device, c.positions), sequences(device, c.sequences);
  Buffer<uint8_t> active(device, c.active.empty() ? std::vector<uint8_t>{0} : c.active);
  Buffer<uint64_t> hashes(device, c.hashes);
  Buffer<uint32_t> samples(device, c.samples);
  RouteBatch batch;
  batch.n_tokens = c.n_tokens;
  batch.positions = positions.data(), batch.sequences = sequences.data(), batch.programs = programs.data();
  batch.active = c.active.empty() ? nullptr : active.data();
  batch.n_edits = c.n_edits;
  batch.record_hash = hashes.data(), batch.samples = samples.data();
  batch.layer = c.layer;

  const bool given = source == Logits::given;
  DeviceTensor logits(device, c.n_tokens, c.router.n_experts, DType::f32, given ? c.logits : std::vector<float>(),
                      c.router.n_experts + 1);
  std::vector<float> one_hot(n * n, 0.f), matrix(n_experts * n), bias(n_experts);
  for (size_t t = 0; t < n; ++t) {
    one_hot[t * n + t] = 1;
    for (size_t e = 0; e < n_experts; ++e) matrix[e * n + t] = c.logits[t * n_experts + e];
  }
  const DeviceTensor x(device, c.n_tokens, c.n_tokens, device.operand_dtype(), one_hot,
                       c.n_tokens + 8 - c.n_tokens % 8);
  const DeviceTensor w(device, c.router.n_experts, c.n_tokens, DType::f32, matrix, c.n_tokens + 4 - c.n_tokens % 4);
  Matrix view;
  view.data = w.view().data;
  view.rows = c.router.n_experts, view.cols = c.n_tokens, view.row_stride = w.view().stride;
  Buffer<float> selection_bias(device, c.selection_bias);
  device.route(out, logits.view(), given ? Tensor() : x.view(), given ? Matrix() : view, nullptr, c.router,
               selection_bias.data(), batch);
  REQUIRE(logits.guards_hold());

  RouteResult r;
  r.ids = ids.get(), r.original_ids = original_ids.get(), r.record_ids = record_ids.get();
  r.record_original_ids = record_original_ids.get(), r.weights = weights.get(), r.margin = margin.get();
  r.scores = scores.get(), r.shared_scale = shared_scale.get(), r.logits = logits.get();
  r.record_weights = record_weights.get(), r.record_margin = record_margin.get();
  r.record_logits = record_logits.get(), r.record_scores = record_scores.get();
  r.group_margin = group_margin.get(), r.record_group_margin = record_group_margin.get();
  r.banned = banned.get(), r.faults = faults.get(), r.edits = edits.get();
  return r;
}

// Equal numbers, or NaN both.
bool same_numbers(const std::vector<float>& a, const std::vector<float>& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]));
  return same;
}

bool near_numbers(const std::vector<float>& a, const std::vector<float>& b,
                  const Tolerance& t = tolerance::device_router_weight) {
  std::vector<float> x, y;  // without what is NaN or the same infinity in both
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    x.push_back(a[i]);
    y.push_back(b[i]);
  }
  return a.size() == b.size() && compare(x, y, t.absolute, t.relative).excess == 0;
}

// Where weights agree but for rounding, one may equal the unedited one on one side alone: of a token a slot less or
// more.
bool near_edits(const std::vector<TokenEdits>& a, const std::vector<TokenEdits>& b, uint32_t n_slots) {
  bool near = a.size() == b.size();
  size_t n_off = 0;
  for (size_t t = 0; near && t < a.size(); ++t) {
    near = a[t].layers == b[t].layers && a[t].added == b[t].added && a[t].changed <= 70 + n_slots;
    n_off += a[t].changed != b[t].changed;
  }
  return near && n_off <= a.size() / 20;
}

// Empty, or the first output that differs.
std::string difference(const RouteResult& got, const RouteResult& want) {
  if (!same_numbers(got.logits, want.logits)) return "logits";
  if (got.faults != want.faults) return "faults";
  if (got.original_ids != want.original_ids) return "original ids";
  if (got.ids != want.ids) return "ids";
  if (got.banned != want.banned) return "banned";
  if (!near_edits(got.edits, want.edits, 64)) return "edits";
  if (got.shared_scale != want.shared_scale) return "shared scale";
  if (!same_numbers(got.margin, want.margin)) return "margin";
  if (!near_numbers(got.group_margin, want.group_margin, tolerance::device_group_margin)) return "group margin";
  if (!near_numbers(got.weights, want.weights)) return "weights";
  if (!near_numbers(got.scores, want.scores)) return "scores";
  if (got.record_ids != want.record_ids) return "recorded ids";
  if (got.record_original_ids != want.record_original_ids) return "recorded original ids";
  if (!near_numbers(got.record_weights, want.record_weights)) return "recorded weights";
  if (!same_numbers(got.record_margin, want.record_margin)) return "recorded margin";
  if (!near_numbers(got.record_group_margin, want.record_group_margin, tolerance::device_group_margin))
    return "recorded group margin";
  if (!same_numbers(got.record_logits, want.record_logits)) return "recorded logits";
  if (!near_numbers(got.record_scores, want.record_scores)) return "recorded scores";
  return {};
}

// Logits on a grid of 1 / grid, so that ties are frequent and exact; 0: no grid.
RouteCase plain_case(const Router& router, int64_t n_tokens, uint64_t seed, int grid = 16) {
  RouteCase c;
  c.router = router;
  c.n_tokens = n_tokens;
  c.n_slots = router.n_active;
  Noise noise(seed);
  for (int64_t i = 0; i < n_tokens * router.n_experts; ++i) {
    const float z = noise.normal() * 2;
    c.logits.push_back(grid ? std::round(z * static_cast<float>(grid)) / static_cast<float>(grid) : z);
  }
  for (int32_t e = 0; e < router.n_experts; ++e) c.selection_bias.push_back(noise.normal() * 0.1f);
  for (int64_t t = 0; t < n_tokens; ++t) c.positions.push_back(static_cast<int32_t>(t)), c.sequences.push_back(0);
  c.hashes = {noise.bits()};
  c.samples = {static_cast<uint32_t>(noise.below(3))};
  return c;
}

Router make_router(int32_t n_experts, int32_t n_active, Router::Score score = Router::Score::softmax) {
  Router r;
  r.n_experts = n_experts;
  r.n_active = n_active;
  r.score = score;
  return r;
}

// ---- random routers, batches and programs

Ids distinct(Noise& noise, int32_t n_experts, int64_t n) {
  Ids all(static_cast<size_t>(n_experts));
  for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
  for (size_t e = 0; e + 1 < all.size(); ++e)
    std::swap(all[e], all[e + static_cast<size_t>(noise.below(static_cast<int64_t>(all.size() - e)))]);
  all.resize(static_cast<size_t>(std::min<int64_t>(n, n_experts)));
  return all;
}

HostStep random_step(Noise& noise, const Router& r, int32_t edit) {
  HostStep h;
  RouterStep& s = h.step;
  s.op = static_cast<EditOp>(noise.below(static_cast<int64_t>(EditOp::scale_shared) + 1));
  s.edit = edit;
  s.seed = noise.bits();
  s.weights = static_cast<WeightPolicy>(noise.below(6));
  if (noise.below(4) == 0) s.margin_below = static_cast<float>(noise.unit()) * 0.5f;
  if (noise.below(6) == 0) s.near_tie_below = static_cast<float>(noise.unit()) * 0.1f;
  s.within_kept = noise.below(2);
  switch (s.op) {
    case EditOp::bias: s.value = static_cast<float>(noise.below(5) - 2); break;
    case EditOp::temperature: s.value = noise.below(3) ? 1.7f : 1.f; break;
    case EditOp::gumbel: s.value = static_cast<float>(noise.below(3)) * 0.7f; break;
    case EditOp::scale_expert:
    case EditOp::scale_shared: s.value = static_cast<float>(noise.below(3)) * 0.75f; break;
    case EditOp::top_k: s.k = static_cast<int32_t>(1 + noise.below(std::min(r.n_experts, r.n_active + 3))); break;
    case EditOp::shift: s.shift = static_cast<int32_t>(noise.below(r.n_experts)); break;
    case EditOp::random: s.exclude_original = noise.below(2); break;
    default: break;
  }
  if (s.op == EditOp::permute) {
    h.experts = distinct(noise, r.n_experts, r.n_experts);
  } else if (s.op == EditOp::fixed) {
    h.experts = distinct(noise, r.n_experts, r.n_active);
  } else {
    h.experts = distinct(noise, r.n_experts, noise.below(2 + std::max(1, r.n_experts / (noise.below(4) ? 8 : 1))));
    std::sort(h.experts.begin(), h.experts.end());
  }
  for (int32_t e = 0; e < r.n_experts; ++e) h.rates.push_back(noise.below(3) ? static_cast<float>(noise.unit()) : 0.f);
  if (s.op == EditOp::replay) {
    s.replay_k = r.n_active;
    s.replay_positions = 5;
    h.replay_index = {1, 0, 2, -1, 0};
    for (int p = 0; p < 3; ++p) {
      Ids row = distinct(noise, r.n_experts, s.replay_k);
      if (row.size() > 1 && noise.below(3) == 0) row.back() = noise.below(2) ? -1 : row[0];  // shorter, or repeated
      h.replay_ids.insert(h.replay_ids.end(), row.begin(), row.end());
      for (int32_t j = 0; j < s.replay_k; ++j) h.replay_weights.push_back(noise.normal());
    }
    s.leave_past = noise.below(2);
    if (noise.below(3)) h.replay_weights.clear();
    if (noise.below(3) == 0) s.weights = WeightPolicy::recorded;
  }
  return h;
}

Router random_router(Noise& noise) {
  static const int32_t sizes[] = {1, 4, 6, 8, 16, 31, 32, 33, 60, 64, 128, 160};
  Router r;
  r.n_experts = sizes[noise.below(12)];
  const int64_t most = noise.below(4) ? (r.n_experts + 1) / 2 : r.n_experts;
  r.n_active = static_cast<int32_t>(1 + noise.below(std::min<int64_t>(most, 10)));
  r.score = noise.below(3) ? Router::Score::softmax : Router::Score::sigmoid;
  r.softmax_over_selected = noise.below(4) == 0;
  r.renormalize = noise.below(2) && !r.softmax_over_selected;
  r.renormalize_epsilon = noise.below(2) ? 1e-20f : 0;
  r.scale = noise.below(2) ? 1.f : 2.5f;
  if (noise.below(3) == 0 && !r.softmax_over_selected && r.n_experts % 2 == 0) {
    r.n_groups = r.n_experts % 8 == 0 && noise.below(2) ? 8 : r.n_experts % 4 == 0 && noise.below(2) ? 4 : 2;
    r.n_groups_kept = static_cast<int32_t>(1 + noise.below(r.n_groups));
    r.group_score = noise.below(2) ? Router::GroupScore::max : Router::GroupScore::sum_top2;
  }
  r.selection_bias = noise.below(4) == 0;
  return r;
}

RouteCase random_case(uint64_t seed, int64_t n_tokens, const Router* router = nullptr) {
  Noise noise(seed + 0x5eed);
  RouteCase c = plain_case(router ? *router : random_router(noise), n_tokens, seed, noise.below(5) ? 16 : 0);
  c.n_slots += 4;
  c.layer = static_cast<int32_t>(noise.below(30));
  const int n_sequences = 3;
  c.hashes.clear(), c.samples.clear();
  for (int s = 0; s < n_sequences; ++s) {
    std::vector<HostStep> program;
    for (int64_t i = noise.below(5); i > 0; --i) program.push_back(random_step(noise, c.router, c.n_edits++));
    c.programs.push_back(program);
    c.hashes.push_back(noise.bits());
    c.samples.push_back(static_cast<uint32_t>(noise.below(3)));
  }
  for (int64_t t = 0; t < n_tokens; ++t) {
    c.positions[static_cast<size_t>(t)] = static_cast<int32_t>(noise.below(6));
    c.sequences[static_cast<size_t>(t)] = static_cast<int32_t>(noise.below(n_sequences));
    for (int32_t i = 0; i < c.n_edits; ++i) c.active.push_back(noise.below(6) != 0);
  }
  return c;
}

}  // namespace

TEST_CASE("device router: routes of every family equal the CPU's") {
  Router deepseek = make_router(256, 8, Router::Score::sigmoid);
  deepseek.selection_bias = deepseek.renormalize = true;
  deepseek.renormalize_epsilon = 1e-20f;
  deepseek.scale = 2.5f;
  deepseek.n_groups = 8, deepseek.n_groups_kept = 4;
  deepseek.group_score = Router::GroupScore::sum_top2;
  Router v2 = make_router(160, 6);
  v2.n_groups = 8, v2.n_groups_kept = 3;
  v2.scale = 16;
  Router qwen = make_router(128, 8);
  qwen.renormalize = true;
  Router mixtral = make_router(8, 2);
  mixtral.softmax_over_selected = true;
  Router pairs = make_router(66, 5);  // more groups than lanes
  pairs.n_groups = 33, pairs.n_groups_kept = 7;
  pairs.group_score = Router::GroupScore::sum_top2;
  Router saturated = make_router(40, 6, Router::Score::sigmoid);
  Router everything = make_router(33, 33);
  struct Row {
    Router router;
    std::vector<int64_t> n_tokens;
  };
  const Row rows[] = {{deepseek, {1, 5}},
                      {v2, {2}},
                      {qwen, {1, 2, 3, 9}},
                      {mixtral, {1, 17}},
                      {pairs, {1, 3}},
                      {saturated, {1, 3}},
                      {everything, {1, 3}},
                      {make_router(1, 1), {1, 3}},
                      {make_router(512, 10), {1}},
                      {make_router(60, 59), {1}},
                      {make_router(4, 1), {129}}};
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const Row& row : rows) {
      for (const int64_t n_tokens : row.n_tokens) {
        for (const Logits source : {Logits::given, Logits::product}) {
          RouteCase c = plain_case(row.router, n_tokens, static_cast<uint64_t>(row.router.n_experts + n_tokens));
          if (row.router.n_experts == 40) {  // scores of 1, of different logits
            for (float& z : c.logits) z *= 20;
          }
          CAPTURE(row.router.n_experts);
          CAPTURE(row.router.n_active);
          CAPTURE(n_tokens);
          CHECK(difference(run(device, c, source), run(*host, c, source)) == "");
        }
      }
    }
  });
}

TEST_CASE("device router: random programs equal the CPU's") {
  const auto host = cpu("auto", 1);
  uint64_t seed = 0;
  int n_runs = 0;
  std::map<RouteFault::Kind, int> faults;
  std::map<EditOp, int> steps;
  for_each_device([&](Backend& device, const std::string&) {
    ++n_runs;
    for (int i = 0; i < 260; ++i) {
      ++seed;
      const RouteCase c = random_case(seed, 1 + static_cast<int64_t>(seed % 4));
      const Logits source = seed % 3 == 0 ? Logits::product : Logits::given;
      const RouteResult want = run(*host, c, source);
      CAPTURE(seed);
      REQUIRE(difference(run(device, c, source), want) == "");
      ++faults[unpack_fault(first_fault(want)).kind];
      for (const auto& program : c.programs) {
        for (const HostStep& s : program) ++steps[s.step.op];
      }
    }
  });
  using Kind = RouteFault::Kind;
  for (const Kind kind : {Kind::none, Kind::too_few_candidates, Kind::too_many_forced, Kind::banned_expert,
                          Kind::repeated_expert, Kind::not_recorded})
    CHECK(faults[kind] > 3);
  for (int op = 0; op <= static_cast<int>(EditOp::scale_shared); ++op)
    CHECK(steps[static_cast<EditOp>(op)] > 40 * n_runs);
}

TEST_CASE("device router: thousands of experts, in shared and in global memory" *
          doctest::test_suite("repeats: the router's kernels, at more experts")) {
  Router wide = make_router(4096, 3), wider = make_router(2000, 12, Router::Score::sigmoid);
  wider.selection_bias = true;
  wider.n_groups = 8, wider.n_groups_kept = 2;
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const Router& router : {wide, wider}) {
      const RouteCase plain = plain_case(router, 2, 5, 0);
      CHECK(difference(run(device, plain, Logits::product), run(*host, plain, Logits::product)) == "");
      for (const uint64_t seed : {1, 2, 4}) {
        const RouteCase c = random_case(seed, 1, &router);
        CAPTURE(seed);
        CHECK(difference(run(device, c, Logits::product), run(*host, c, Logits::product)) == "");
      }
    }
  });
}

TEST_CASE("device router: infinite and missing logits") {
  const float inf = std::numeric_limits<float>::infinity();
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const bool sigmoid : {false, true}) {
      RouteCase c = plain_case(make_router(40, 3, sigmoid ? Router::Score::sigmoid : Router::Score::softmax), 6, 8);
      c.programs = {{}};
      c.programs[0].push_back({});
      c.programs[0][0].step.op = EditOp::worst;
      c.active.assign(6, 1);
      c.active[2] = 0;
      c.n_edits = 1;
      c.logits[0 * 40 + 7] = -inf;                                                  // score 0
      for (size_t e = 0; e < 40; ++e) c.logits[1 * 40 + e] = e == 33 ? 1.f : -inf;  // one is left
      for (size_t e = 0; e < 40; ++e) c.logits[2 * 40 + e] = e == 5 || e == 9 ? 2.f : -inf;
      for (size_t e = 0; e < 40; ++e) c.logits[3 * 40 + e] = -inf;  // none is left
      c.logits[4 * 40 + 39] = std::nanf("");
      c.logits[5 * 40 + 0] = inf;
      const RouteResult got = run(device, c, Logits::given);
      CHECK(difference(got, run(*host, c, Logits::given)) == "");
      const RouteFault fault = unpack_fault(first_fault(got));
      CHECK((fault.kind == RouteFault::Kind::not_finite && fault.token == 3 && fault.layer == 3));
    }
  });
}

TEST_CASE("device router: the margin is one of logits where scores have run together") {
  const auto host = cpu();
  for_each_device([&](Backend& device, const std::string&) {
    for (const int32_t n_active : {6, 5, 7}) {  // at the end of the scores of 1, within them, after them
      RouteCase c = plain_case(make_router(40, n_active, Router::Score::sigmoid), 1, 8);
      for (size_t e = 0; e < 40; ++e) c.logits[e] = -200 + static_cast<float>(e * 7 % 40);  // score 0
      for (size_t e = 0; e < 6; ++e) c.logits[3 + e * 5] = 30 + static_cast<float>(e);      // score 1
      CHECK(difference(run(device, c, Logits::given), run(*host, c, Logits::given)) == "");
    }
  });
}

TEST_CASE("device router: the product") {
  struct Row {
    int64_t n_tokens, n_experts, d_model, x_gap, w_gap;
    bool bias;
  };
  const Row rows[] = {{1, 128, 64, 0, 0, false}, {1, 5, 1, 7, 3, true},      {2, 8, 2048, 0, 0, true},
                      {3, 9, 257, 7, 3, false},  {8, 16, 1031, 1, 2, true},  {9, 3, 2304, 8, 4, false},
                      {17, 6, 520, 0, 0, true},  {129, 33, 72, 0, 0, true},  {150, 8, 200, 8, 4, false},
                      {130, 40, 67, 2, 1, true}, {200, 64, 640, 0, 0, false}};
  const auto host = cpu();
  for (const bool invariant : {false, true}) {
    for_each_device(
        [&](Backend& device, const std::string&) {
          for (const Row& row : rows) {
            const int64_t n = row.n_tokens, e = row.n_experts, d = row.d_model;
            const std::vector<float> x = normal_values(n * d, 1, true), w = normal_values(e * d, 2);
            const std::vector<float> bias = normal_values(e, 3);
            const auto product = [&](Backend& backend, int64_t first, int64_t count) {
              const DeviceTensor xs(backend, count, d, backend.operand_dtype(),
                                    {x.begin() + first * d, x.begin() + (first + count) * d}, d + row.x_gap);
              const DeviceTensor ws(backend, e, d, DType::f32, w, d + row.w_gap);
              const DeviceTensor logits(backend, count, e, DType::f32, {}, e + 2);
              const Buffer<float> biases(backend, bias);
              const Buffer<int32_t> ids(backend, Ids(static_cast<size_t>(count), -7));
              const Buffer<float> weights(backend, std::vector<float>(static_cast<size_t>(count)));
              Matrix matrix;
              matrix.data = ws.view().data;
              matrix.rows = e, matrix.cols = d, matrix.row_stride = d + row.w_gap;
              Route out;  // ids and weights alone
              out.n_slots = 1;
              out.ids = ids.data(), out.weights = weights.data();
              RouteBatch batch;
              batch.n_tokens = count;
              backend.route(out, logits.view(), xs.view(), matrix, row.bias ? biases.data() : nullptr,
                            make_router(static_cast<int32_t>(e), 1), nullptr, batch);
              CHECK(logits.guards_hold());
              const std::vector<float> z = logits.get();
              const Ids chosen = ids.get();
              for (int64_t t = 0; t < count; ++t) {
                const auto z0 = z.begin() + t * e;
                CHECK(z0[chosen[static_cast<size_t>(t)]] == *std::max_element(z0, z0 + e));
              }
              return z;
            };
            CAPTURE(n);
            CAPTURE(d);
            const Tolerance& tolerance = tolerance::device_router_logits;
            const std::vector<float> got = product(device, 0, n);
            const Worst worst = compare(got, product(*host, 0, n), tolerance.absolute, tolerance.relative);
            CHECK_MESSAGE(worst.excess == 0, worst.text);
            CHECK(product(device, 0, n) == got);
            if (!invariant) continue;
            using Part = std::pair<int64_t, int64_t>;
            for (const auto& [first, count] : {Part{n - 1, 1}, Part{n / 2, std::min<int64_t>(n - n / 2, 3)}}) {
              const std::vector<float> part = product(device, first, count);
              CHECK(std::equal(part.begin(), part.end(), got.begin() + first * e));
            }
          }
        },
        invariant);
  }
}

TEST_CASE("device router: replayed graphs route again, into the next slot") {
  const Router router = make_router(24, 4);
  for_each_device([&](Backend& device, const std::string&) {
    for (const int64_t n_tokens : {1, 11}) {
      const size_t n = static_cast<size_t>(n_tokens);
      const std::vector<float> w = normal_values(24 * 16, 2);
      const Buffer<float> matrix_memory(device, w);
      Matrix matrix;
      matrix.data = matrix_memory.data();
      matrix.rows = 24, matrix.cols = 16, matrix.row_stride = 16;
      const DeviceTensor logits(device, n_tokens, 24, DType::f32);
      const DeviceTensor x(device, n_tokens, 16, device.operand_dtype(), normal_values(n_tokens * 16, 3, true));
      const Buffer<int32_t> ids(device, Ids(n * 4, -7)), ring(device, Ids(4 * n * 4, -7));
      const Buffer<float> weights(device, std::vector<float>(n * 4));
      const Buffer<uint32_t> step(device, {0});
      Route out;
      out.n_slots = 4;
      out.ids = ids.data(), out.weights = weights.data();
      out.record.step = step.data(), out.record.n_steps = 4, out.record.step_stride = n_tokens;
      out.record.ids = ring.data();
      RouteBatch batch;
      batch.n_tokens = n_tokens;
      const int64_t key[] = {n_tokens};
      for (uint32_t i = 0; i < 4; ++i) {  // done, captured and replayed, replayed twice
        device.upload(step.data(), &i, 4);
        device.fill(ids.data(), 0xee, n * 16);
        device.replay(key,
                      [&] { device.route(out, logits.view(), x.view(), matrix, nullptr, router, nullptr, batch); });
        const Ids all = ring.get(), now = ids.get();
        CHECK(std::equal(now.begin(), now.end(), all.begin() + i * now.size()));
        CHECK(std::equal(now.begin(), now.end(), all.begin()));
        CHECK(std::all_of(all.begin() + (i + 1) * now.size(), all.end(), [](int32_t e) { return e == -7; }));
        CHECK(std::all_of(now.begin(), now.end(), [](int32_t e) { return e >= 0 && e < 24; }));
      }
      device.forget_graphs();  // their memory goes with this scope
    }
  });
}

}  // namespace signalbox::test
