// Tiny models of the goldens with records, for tests of causal analyses.
#pragma once
#include <string>
#include <vector>

#include "eval/causal/metric.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "tests/support.h"

namespace signalbox::test {

inline const char* const tiny_families[] = {
    "deepseek_v2_full", "deepseek_v2_lite",    "gpt_oss",  "gpt_oss_mxfp4", "mixtral", "mixtral_window_f16", "olmoe",
    "qwen2_moe",        "qwen2_moe_step_bf16", "qwen3_moe"};

struct TinyRecords {
  engine::Session session;
  std::vector<eval::Record> records;
  eval::RecordJobs made;
  TinyRecords(const std::string& name, const std::vector<std::string>& lines)
      : session(loaders::open_session((goldens_dir() / name / "model").string(), {})) {
    for (size_t i = 0; i < lines.size(); ++i)
      records.push_back(eval::parse_record(json::parse(lines[i], "records"), "records:" + std::to_string(i + 1)));
    made = eval::make_jobs(session, records, engine::Generate{}, nullptr);
  }
  eval::MetricRows metric(eval::Metric metric, size_t record) const {
    return eval::metric_rows(metric, records[record], made.encoded[record], session.encode);
  }
};

}  // namespace signalbox::test
