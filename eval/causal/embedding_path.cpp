#include "eval/causal/embedding_path.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "eval/causal/edges.h"
#include "eval/causal/route_margins.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

constexpr const char* route_points = "*.router.ids,*.router.weights,*.router.logits";
// A crossing is known to lie in a part of the path that is no longer: rows of embeddings are f32.
constexpr double narrowest = 1.0 / (1 << 20);
constexpr int most_guesses = 6;  // of where it lies; then halves are taken

std::vector<float> embedded_at(const PathRequest& request, double a) {
  std::vector<float> x(request.from.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double from = static_cast<double>(request.from[i]), to = static_cast<double>(request.to[i]);
    x[i] = a == 1 ? request.to[i] : static_cast<float>(from + a * (to - from));
  }
  return x;
}

// The routes that the model takes at one point of the path.
struct RoutesAt {
  double at = 0;
  std::shared_ptr<ActivationStore> store;
  // [layers with a router][n_tokens] ascending; empty for tokens whose route there no logits of the metric see.
  std::vector<std::vector<std::vector<int32_t>>> routes;
};

// A token in a layer (by place) whose route differs. Those of lower layers come first.
struct ChangedCell {
  size_t layer = 0, token = 0;
  std::vector<int32_t> left, came;
};
std::vector<ChangedCell> changed_cells(const RoutesAt& a, const RoutesAt& b) {
  std::vector<ChangedCell> found;
  for (size_t i = 0; i < a.routes.size(); ++i) {
    for (size_t t = 0; t < a.routes[i].size(); ++t) {
      const std::vector<int32_t>&before = a.routes[i][t], &behind = b.routes[i][t];
      if (before == behind) continue;
      ChangedCell& cell = found.emplace_back(ChangedCell{i, t, {}, {}});
      std::set_difference(before.begin(), before.end(), behind.begin(), behind.end(), std::back_inserter(cell.left));
      std::set_difference(behind.begin(), behind.end(), before.begin(), before.end(), std::back_inserter(cell.came));
    }
  }
  return found;
}

class Path {
 public:
  Path(const Session& session, const PathRequest& request) : session_(session), request_(request) {}
  PathIntegral run();

 private:
  SequenceRequest base() const {
    SequenceRequest run;
    run.job = request_.job;
    run.reference = request_.reference;
    return run;
  }
  RoutesAt routes(double a);
  double metric(double a, const RoutesAt* held);
  double guess(const RoutesAt& a, const RoutesAt& b) const;
  void find(const RoutesAt& a, const RoutesAt& b, int depth = 0);
  void cross(const RoutesAt& a, const RoutesAt& b);
  void integrate(double first, double last, const RoutesAt* held);
  bool stopped() const { return request_.interrupted && *request_.interrupted; }

  const Session& session_;
  const PathRequest& request_;
  PathIntegral result_;
  double stretch_begin_ = 0;  // behind the last crossing
  RoutesAt stretch_;
};

RoutesAt Path::routes(double a) {
  const std::vector<float> embedded = embedded_at(request_, a);
  SequenceRequest request = base();
  request.values = route_points;
  request.embedded = &embedded;
  request.name = "routes";
  RoutesAt found{a, run_sequence(session_, request).values, {}};
  for (size_t i = 0; i < found.store->layers().size(); ++i)
    found.routes.push_back(routes_of(*found.store, 0, static_cast<int64_t>(i)));
  // Behind the last layer there is nothing but the logits of the tokens that the metric looks at.
  if (!found.routes.empty() && found.store->layers().back() + 1 == session_.shape.n_layers()) {
    std::vector<std::vector<int32_t>>& last = found.routes.back();
    std::fill(last.begin(), last.end() - request_.rows->n_rows(), std::vector<int32_t>());
  }
  ++result_.forwards;
  return found;
}

double Path::metric(double a, const RoutesAt* held) {
  const std::vector<float> embedded = embedded_at(request_, a);
  SequenceRequest request = base();
  request.rows = request_.rows;
  request.embedded = &embedded;
  std::shared_ptr<const EditPlan> plan;
  if (held) plan = hold_routes(session_, held->store);
  request.plan = plan.get();
  ++result_.forwards;
  return run_sequence(session_, request).metric;
}

// Midpoints of equal parts of [first, last], not longer than 1 / steps.
void Path::integrate(double first, double last, const RoutesAt* held) {
  if (last <= first) return;
  const auto n = std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil((last - first) * static_cast<double>(request_.steps) - 1e-9)));
  const auto d = static_cast<size_t>(session_.model.d_model);
  std::shared_ptr<const EditPlan> plan;
  if (held) plan = hold_routes(session_, held->store);
  for (int64_t k = 0; k < n && !stopped(); ++k) {
    const double part = request_.rule == PathRule::midpoint ? static_cast<double>(k) + 0.5 : static_cast<double>(k + 1);
    const std::vector<float> embedded = embedded_at(request_, first + (last - first) * part / static_cast<double>(n));
    SequenceRequest request = base();
    request.rows = request_.rows;
    request.embedded = &embedded;
    request.plan = plan.get();
    request.back = true;
    request.slopes = "embed";
    const SequenceRun run = run_sequence(session_, request);
    const std::vector<float> slope = run.slopes->floats("embed", run.slopes->rows(0));
    const double weight = (last - first) / static_cast<double>(n);
    for (size_t t = 0; t < result_.of_position.size(); ++t) {
      double sum = 0;
      for (size_t i = t * d; i < (t + 1) * d; ++i)
        sum += (static_cast<double>(request_.to[i]) - static_cast<double>(request_.from[i])) *
               static_cast<double>(slope[i]);
      result_.of_position[t] += weight * sum;
    }
    ++result_.gradients;
  }
}

// The crossing between two neighbouring points: what jumps there, and the stretch before it.
void Path::cross(const RoutesAt& a, const RoutesAt& b) {
  if (static_cast<int64_t>(result_.crossings.size()) >= request_.most_crossings)
    throw Error("--max-crossings", "expected at most " + std::to_string(request_.most_crossings) +
                                       " changes of routes on the path of " + request_.job->prompt->id +
                                       ", found more (or hold them: --routes held)");
  const std::vector<ChangedCell> cells = changed_cells(a, b);
  Crossing crossing;
  crossing.at = (a.at + b.at) / 2;
  crossing.cells = static_cast<int64_t>(cells.size());
  crossing.layer = a.store->layers()[cells.front().layer];
  crossing.position = static_cast<int64_t>(cells.front().token);
  crossing.left = cells.front().left;
  crossing.came = cells.front().came;
  integrate(stretch_begin_, a.at, &a);
  stretch_begin_ = b.at;
  stretch_ = b;
  // Each side with its own routes, which there are the model's. Where groups of experts are limited, held ids on the
  // other side could lie in a group that is dropped, and weigh nothing.
  crossing.before = metric(a.at, nullptr);
  crossing.behind = metric(b.at, nullptr);
  result_.jumps += crossing.behind - crossing.before;
  result_.crossings.push_back(std::move(crossing));
}

// Where between a and b the first cell's route changes, by the logits of the expert that leaves and the one that comes.
double Path::guess(const RoutesAt& a, const RoutesAt& b) const {
  const ChangedCell cell = changed_cells(a, b).front();
  const double middle = (a.at + b.at) / 2;
  if (cell.left.empty() || cell.came.empty()) return middle;
  const auto lead = [&](const RoutesAt& of) {
    const int64_t width = of.store->tensor_width("router.logits");
    const auto token = static_cast<int64_t>(cell.token);
    const std::vector<float> z = of.store->floats("router.logits", {token, token + 1});
    const float* row =
        z.data() + static_cast<int64_t>(cell.layer) * width / static_cast<int64_t>(of.store->layers().size());
    return static_cast<double>(row[cell.left.front()]) - static_cast<double>(row[cell.came.front()]);
  };
  const double before = lead(a), behind = lead(b);
  return before > 0 && behind < 0 ? a.at + (b.at - a.at) * before / (before - behind) : middle;
}

void Path::find(const RoutesAt& a, const RoutesAt& b, int depth) {
  if (a.routes == b.routes || stopped()) return;
  const double width = b.at - a.at;
  if (width <= narrowest) return cross(a, b);
  // Logits are all but straight: the shorter the part, the nearer to the guess. Both its sides are looked at.
  const double at = guess(a, b), near = std::max(0.4 * narrowest, std::min(0.25, 4 * width) * width);
  const double first = std::max(at - near, a.at + 0.1 * std::min(near, width)),
               last = std::min(at + near, b.at - 0.1 * std::min(near, width));
  if (depth >= most_guesses || !(a.at < first && first < last && last < b.at)) {
    const RoutesAt middle = routes(a.at + width / 2);
    find(a, middle, depth + 1);
    find(middle, b, depth + 1);
    return;
  }
  const RoutesAt below = routes(first), above = routes(last);
  find(a, below, depth + 1);
  find(below, above, depth + 1);
  find(above, b, depth + 1);
}

PathIntegral Path::run() {
  result_.of_position.resize(request_.from.size() / static_cast<size_t>(session_.model.d_model));
  result_.start = metric(0, nullptr);
  result_.end = metric(1, nullptr);
  RoutesAt last = routes(0);
  const RoutesAt end = routes(1);
  for (size_t i = 0; i < last.routes.size(); ++i) {
    for (size_t t = 0; t < last.routes[i].size(); ++t) {
      result_.cells += !last.routes[i][t].empty();
      result_.changed += last.routes[i][t] != end.routes[i][t];
    }
  }
  if (request_.holds_routes) {
    integrate(0, 1, &last);
    result_.jumps = result_.end - metric(1, &last);
  } else {
    // Crossings are looked for between the ends and the middles of all parts.
    stretch_ = last;
    const int64_t n = 2 * request_.steps;
    for (int64_t k = 1; k <= n && !stopped(); ++k) {
      RoutesAt next = k < n ? routes(static_cast<double>(k) / static_cast<double>(n)) : end;
      find(last, next);
      last = std::move(next);
    }
    integrate(stretch_begin_, 1, &stretch_);
  }
  for (const double x : result_.of_position) result_.integral += x;
  result_.interrupted = stopped();
  return std::move(result_);
}

}  // namespace

PathIntegral integrate_path(const Session& session, const PathRequest& request) { return Path(session, request).run(); }

void each_path_point(const PathRequest& request, const std::function<void(double, const std::vector<float>&)>& run) {
  const auto m = static_cast<double>(request.steps);
  for (int64_t k = 0; k < request.steps; ++k) {
    const double part = request.rule == PathRule::midpoint ? static_cast<double>(k) + 0.5 : static_cast<double>(k);
    run(1 / m, embedded_at(request, 1 - part / m));
  }
}

}  // namespace signalbox::eval
