// A pair of records on a model of tests/goldens, whose runs PyTorch made too.
#pragma once
#include <string>
#include <vector>

#include "eval/causal/pairs.h"
#include "loaders/open.h"
#include "tests/support.h"

namespace signalbox::test {

struct GoldenPair {
  engine::Session session;
  std::vector<eval::Record> records;
  eval::RecordJobs made;
  std::vector<eval::CausalPair> pairs;

  // The tokens of tests/goldens/attribution_goldens.py.
  explicit GoldenPair(const std::string& name)
      : session(loaders::open_session((goldens_dir() / name / "model").string(), {})) {
    for (const char* line :
         {R"({"id":"a","pair":"p","condition":"clean","tokens":[5,9,33,17,40,12,61,8,25,30],"answer":7,"foil":9})",
          R"({"id":"b","pair":"p","condition":"corrupt","tokens":[5,9,20,17,40,71,61,8,3,30],"answer":7,"foil":9})"})
      records.push_back(eval::parse_record(json::parse(line, "records"), "records"));
    made = eval::make_jobs(session, records, engine::Generate{}, nullptr);
    pairs = eval::causal_pairs(eval::Metric::logit_diff, records, made, session.encode);
  }
};

}  // namespace signalbox::test
