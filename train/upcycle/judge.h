// What a carved model has kept of the dense one, beside what chance, no router and a perfect one would keep.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/compress/quality.h"
#include "train/namespaces.h"
#include "train/upcycle/carved_model.h"
#include "train/upcycle/texts.h"

namespace signalbox::train {

// The plans, in the order of quality.csv:
//   dense          the model itself
//   every_expert   all experts on, dense columns of down: dense up to rounding and the spread of the weights
//   random_route   experts drawn anew for each token and layer, dense columns
//   linear         the router, dense columns
//   best_route     those experts whose outputs on the dense model's stream are the largest, dense columns: what a
//   router
//                  would reach that knew the sizes
//   upcycled       the router and the refitted columns: what is written
//   static         no router: the neurons most often in use, as many as are active otherwise
//   static_refit   the same with columns refitted in the same way
inline constexpr const char* plan_names[] = {"dense",      "every_expert", "random_route", "linear",
                                             "best_route", "upcycled",     "static",       "static_refit"};
inline constexpr const char* upcycled_plan = "upcycled";

struct PlanQuality {
  std::string plan;
  int64_t parameters = 0, active_parameters = 0;
  std::vector<Quality> kinds;  // [kinds], and all of them together last where there are several
};

// How often each expert is on, on the evaluation records.
struct RouteCounts {
  std::vector<int64_t> tokens;                              // [kinds]
  std::vector<std::vector<std::vector<int64_t>>> selected;  // [kinds][layers][experts]
};

struct JudgeInputs {
  const Session* dense = nullptr;
  const Model* carved = nullptr;
  const std::vector<CarvedLayer>* layers = nullptr;
  const UpcycleTexts* texts = nullptr;
  CarveLayout layout;
  DType dtype = DType::f32;
  uint64_t seed = 0;
  int threads = 1;
  RunOptions run;
  // Where results of plans are kept to go on from, and, while it runs, the dense model's logits and streams.
  std::filesystem::path directory;
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
  std::function<void(const std::string&)> on_note;
};

struct Judgement {
  std::vector<PlanQuality> plans;
  RouteCounts routes;  // of the upcycled plan
};

// Throws Error, and what on_progress throws.
Judgement judge(const JudgeInputs& inputs);

}  // namespace signalbox::train
