// Integrated gradients along a straight path of embeddings, with the jumps that a mixture's routes make.
//
//   x(a) = x + a (x' - x), a from 0 to 1;   M(x') - M(x) = integral of dM/da + sum over crossings of a jump + rest
//
// Where a router chooses other experts (a crossing), M is not continuous, and no gradient sees it. Each crossing is
// narrowed down and M evaluated on both its sides, 1e-6 of the path apart; between crossings the integral is a
// sum over midpoints, at most 1/steps apart, with the routes of that stretch held. `rest` is what the sum of midpoints
// leaves, of order 1/steps^2. Routes that the metric cannot see, of tokens without a wanted logit in the last layer,
// are left aside.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "eval/causal/sequence_run.h"

namespace signalbox::eval {

// Where on the path the gradient is taken: in the middle of each of `steps` parts, or at their ends that are nearer to
// x' (x' + (k / steps) (x - x'), k = 0 ... steps - 1, as EAP-IG has them).
enum class PathRule : uint8_t { midpoint, left };

struct PathRequest {
  const engine::Job* job = nullptr;  // of x: its tokens' positions
  const MetricRows* rows = nullptr;
  kernels::Tensor reference;    // logits of the unedited run at x, for kl
  std::vector<float> from, to;  // [n_tokens, d_model] embeddings of x and x'
  int64_t steps = 0;
  PathRule rule = PathRule::midpoint;
  bool holds_routes = false;   // those of x on the whole path; what x' makes of others is one jump at its end
  int64_t most_crossings = 0;  // more are an Error
  const std::atomic<bool>* interrupted = nullptr;
};

struct Crossing {
  double at = 0;      // a
  int32_t layer = 0;  // the lowest at which a route changes here, and its first token
  int64_t position = 0;
  std::vector<int32_t> left, came;  // experts of that cell
  int64_t cells = 0;                // (token, layer) whose route changes here: later ones follow from the first
  double before = 0, behind = 0;    // M on both sides; the jump is behind - before
};

struct PathIntegral {
  bool interrupted = false;
  double start = 0, end = 0;        // M(x), M(x')
  std::vector<double> of_position;  // [n_tokens] of the integral
  double integral = 0, jumps = 0;
  double rest() const { return end - start - integral - jumps; }
  std::vector<Crossing> crossings;      // ascending; with held routes none
  int64_t changed = 0, cells = 0;       // (token, layer) whose route at x' is another than at x, of all
  int64_t gradients = 0, forwards = 0;  // runs
};

// Throws Error that begins with --max-crossings where there are more.
PathIntegral integrate_path(const engine::Session& session, const PathRequest& request);

// The gradients of EAP-IG: `run(weight, embedded)` for each point of the path, routes as they come.
void each_path_point(const PathRequest& request,
                     const std::function<void(double weight, const std::vector<float>& embedded)>& run);

}  // namespace signalbox::eval
