// Lines of samples.jsonl: what is written is what is read.
#include "eval/score/sample_lines.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "tests/run/experiment_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

SampleLine full_line() {
  SampleLine line;
  line.intervention = "mis/policy=random,fraction=0.5";
  Sample& sample = line.sample;
  sample.id = "a";
  sample.seed = 18446744073709551615u;
  sample.sample = 2;
  sample.has_text = true;
  sample.text = "It is \"Narqui\".\n";
  sample.tokens = {5, 0, 1234};
  sample.finish_reason = "stop";
  sample.set_logprobs({-0.5, -1.0 / 3});
  sample.divergence = {0.25, 0};
  sample.same_top = {0, 1};
  sample.options = {{-2.5, 3, 11}, {-1.25, 2, 7}};
  sample.judged = {{"half", 0.5}};
  sample.edits = EditCounts{20, 3, 160, 7};
  line.scores = {{"em", 1.0}, {"f1", std::nullopt}};
  return line;
}

// Through text, as a file holds it.
SampleLine read_back(const json::Value& line) {
  const json::Value parsed = json::parse(json::dump(line), "samples.jsonl:1");
  return read_sample_line(json::Ref(parsed, "samples.jsonl:1"));
}

}  // namespace

TEST_CASE("sample lines: written and read") {
  const Record record = records_of({"'id': 'a', 'prompt': 'p', 'target': 't', 'condition': 'c', 'em': 3"})[0];
  const SampleLine line = full_line();
  const json::Value written = sample_line_json(record, line);
  CHECK(written.find("condition")->string() == "c");
  CHECK_FALSE(written.find("prompt"));
  const SampleLine read = read_back(written);
  CHECK(json::dump(sample_line_json(record, read)) == json::dump(written));
  CHECK(read.intervention == line.intervention);
  CHECK(read.sample.seed == line.sample.seed);
  CHECK(read.sample.logprobs == line.sample.logprobs);
  CHECK(read.sample.n_logprobs == 2);
  CHECK(read.sample.options[1].n_bytes == 7);
  CHECK(read.scores == line.scores);
  CHECK(read.sample.edits == line.sample.edits);
  CHECK(written.find("edited_slots")->integer() == 7);
  // Lines of before, and a record with a key of that name.
  SampleLine old = line;
  old.sample.edits.reset();
  const Record named = records_of({"'id': 'a', 'prompt': 'p', 'edited_tokens': 3"})[0];
  CHECK_FALSE(sample_line_json(named, old).find("edited_tokens"));
  CHECK_FALSE(read_back(sample_line_json(named, old)).sample.edits);
  // Without a target, single log-probabilities are not kept.
  const Record open = records_of({"'id': 'a', 'prompt': 'p'"})[0];
  CHECK(read_back(sample_line_json(open, line)).sample.logprobs.empty());
}

TEST_CASE("sample lines: numbers that are not finite, texts that were not decoded") {
  const Record record = records_of({"'id': 'a', 'prompt': 'p', 'target': 't'"})[0];
  SampleLine line = full_line();
  line.sample.decoded = false;
  line.sample.text.clear();
  line.sample.logprobs[1] = -INFINITY;
  line.sample.options[0].sum_logprob = -INFINITY;
  const SampleLine read = read_back(sample_line_json(record, line));
  CHECK(read.sample.has_text);
  CHECK_FALSE(read.sample.decoded);
  CHECK(std::isnan(read.sample.logprobs[1]));
  CHECK(std::isnan(read.sample.options[0].sum_logprob));
}

TEST_CASE("sample lines: a file, line by line, and what is no sample") {
  TemporaryDirectory dir;
  const Record record = records_of({"'id': 'a', 'prompt': 'p', 'target': 't'"})[0];
  const std::string text = json::dump(sample_line_json(record, full_line())) + "\n";
  write_file(dir / "samples.jsonl", text + text);
  int lines = 0;
  for_each_sample_line(dir / "samples.jsonl", [&](const SampleLine& line, const json::Ref& source) {
    ++lines;
    CHECK(line.sample.id == "a");
    CHECK(source.where().ends_with("samples.jsonl:" + std::to_string(lines)));
  });
  CHECK(lines == 2);
  write_file(dir / "samples.jsonl", text + "{\"intervention\": \"off\", \"id\": \"a\", \"seed\": 0}\n");
  const auto read = [&] { for_each_sample_line(dir / "samples.jsonl", [](const SampleLine&, const json::Ref&) {}); };
  CHECK_THROWS_WITH_AS(read(), doctest::Contains("samples.jsonl:2: expected the key \"sample\", found none"), Error);
}
