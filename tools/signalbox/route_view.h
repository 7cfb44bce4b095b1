// Text in the colours of its experts: which expert each token went to first, at some layers.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/jobs.h"
#include "engine/text.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::tools {

// Throws UsageError naming `flag`, and the layers that have one, for a layer without a router, or one named twice.
void require_routers(const std::vector<int>& layers, const ModelShape& shape, const std::string& flag);

// How a token of an expert looks: one of 16 colours, and from expert 16 on one of 16 styles (underlined, reversed, ...)
// as well, which makes 256 that differ.
inline constexpr int n_looks = 256;
std::string expert_look(int32_t expert);  // the escape sequence that begins it; "\033[0m" ends it

struct RouteViewOptions {
  std::vector<int> layers;
  bool colours = false;                  // else each token stands behind "[EXPERT]"; from expert n_looks on in any case
  bool prompt = false;                   // given tokens too
  int width = 0;                         // of the terminal, for legends; 0: any
  const Tokenizer* tokenizer = nullptr;  // null: tokens are numbers
};

// Takes routes from a run, and prints each sample when its result is there and the routes of all its tokens, which come
// some steps later: with a later result, or in finish(). In the order of the jobs: for each layer its text, each token
// as its first expert looks, and a legend: which expert is which, of how many tokens it is the first. The first is the
// one of the highest score among those that the token went to.
class RouteView : public ProbeSink {
 public:
  using Write = std::function<void(const std::string&)>;
  // `titles`: a line above each job's text; empty: none. `jobs` outlive it.
  RouteView(RouteViewOptions options, const std::vector<Job>& jobs, std::vector<std::string> titles, Write write);

  void set_next(ProbeSink* next) { next_ = next; }
  void result(Result result);
  // What could not be printed before, when no route comes any more: first_experts(job, layer) tells the first experts
  // of all rows, or nothing, from where else they are known.
  void finish(const std::function<std::vector<int32_t>(int64_t job, int32_t layer)>& first_experts);

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override;
  void abandon() override;

 private:
  struct Sample {
    bool has_result = false;
    Result result;
    std::vector<std::vector<int32_t>> first;  // [layers][rows], -1: not known
  };
  bool complete(int64_t job) const;
  void print_ready();
  std::string text_of(int64_t job) const;
  std::string legend(int32_t layer, const std::map<int32_t, int64_t>& counts, int64_t n) const;

  RouteViewOptions options_;
  const std::vector<Job>& jobs_;
  std::vector<std::string> titles_;
  Write write_;
  ProbeSink* next_ = nullptr;
  std::map<int64_t, Sample> samples_;  // of jobs that are not printed yet
  std::vector<RowRange> ranges_;       // of the batch at hand
  int64_t next_job_ = 0;
};

}  // namespace signalbox::tools
