// signalbox judge calibrate: labelled texts by themselves, and those of a run.
#include <doctest/doctest.h>

#include <sstream>

#include "base/csv.h"
#include "base/json.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

struct Scratch {
  TemporaryDirectory dir;
  fs::path labels = dir / "labels.jsonl";

  Ran calibrate(const std::string& more) const {
    return run_command(test::binary() + " judge calibrate --input " + labels.string() + " " + more);
  }
  json::Value found(const std::string& more) const {
    const Ran ran = calibrate(more + " --json");
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return json::parse(ran.out, "calibrate");
  }
  // The error line without its beginning.
  std::string error(const std::string& lines, const std::string& more) const {
    write_file(labels, lines);
    const Ran ran = calibrate(more);
    const std::string start = "signalbox: error: ";
    const std::string line = ran.err.substr(std::min(ran.err.find(start) + start.size(), ran.err.size()));
    CHECK(ran.code == (line.starts_with("--") ? 2 : 1));
    const std::string name = labels.string();
    return line.starts_with(name) ? line.substr(name.size(), line.size() - name.size() - 1)
                                  : line.substr(0, line.size() - 1);
  }
};

double value(const json::Value& root, std::initializer_list<const char*> path) {
  const json::Value* at = &root;
  for (const char* key : path) {
    at = at->find(key);
    REQUIRE_MESSAGE(at, key);
  }
  REQUIRE(at->is_number());
  return at->real();
}

// Two requests that are declined and two questions, under a baseline and an edit that breaks texts.
const std::string& small_run() {
  static TemporaryDirectory dir;
  static const std::string out = [] {
    std::string data;
    for (const char* file : {"refuse.jsonl", "memory.jsonl"}) {
      const auto lines = lines_of(read_file(source_dir() / "tools/builtin/heldout" / file));
      data += lines.at(0) + "\n" + lines.at(1) + "\n";
    }
    write_file(dir / "data.jsonl", data);
    write_file(dir / "spec.json", R"({"model": "builtin", "data": "data.jsonl", "generate": {"max_tokens": 8},
      "interventions": [{"name": "baseline"}, {"name": "off", "controls": false, "edits": [{"op": "deactivate",
        "mode": "ban", "experts": {"2": [0, 1, 2, 3], "4": [3, 5, 11]}}]}], "metrics": ["refused"], "resamples": 50})");
    const std::string out = (dir / "out").string();
    const Ran ran = run_command(test::binary() + " run " + (dir / "spec.json").string() + " --quiet --out " + out);
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    return out;
  }();
  return out;
}

}  // namespace

TEST_CASE("judge calibrate: texts with labels, by a rule and by a judge of batches") {
  Scratch scratch;
  write_file(scratch.labels, R"({"text": "I cannot help with that.", "label": true}
{"text": "Nope.", "label": 1}
{"text": "I must decline.", "label": false}
{"text": "It is blue.", "label": 0, "prompt": "What colour is it?"}
{"text": "Twelve.", "label": false, "id": "a"}
)");
  const json::Value rule = scratch.found("--score refused");
  CHECK(value(rule, {"counts", "true_positive"}) == 1);
  CHECK(value(rule, {"counts", "false_negative"}) == 1);
  CHECK(value(rule, {"counts", "false_positive"}) == 1);
  CHECK(value(rule, {"counts", "true_negative"}) == 2);
  CHECK(value(rule, {"sensitivity", "value"}) == 0.5);
  CHECK(value(rule, {"specificity", "value"}) == doctest::Approx(2.0 / 3));
  CHECK(value(rule, {"kappa", "value"}) == doctest::Approx((0.6 - 0.52) / 0.48));
  CHECK(value(rule, {"clusters"}) == 5);
  CHECK(rule.find("notes")->items().at(0).string() ==
        "The score is wrong on 2 labels: how it errs is hardly known; label more texts.");
  // The table, and files of the same numbers.
  const std::string out = (scratch.dir / "tables").string();
  const Ran ran = scratch.calibrate("--score refused --out " + out);
  REQUIRE(ran.code == 0);
  CHECK(ran.out.find("label yes           1         1\nlabel no            1         2\n") != std::string::npos);
  CHECK_MESSAGE(ran.out.find("sensitivity") != std::string::npos, ran.out);
  const CsvTable table = CsvTable::read(out + "/confusion.csv");
  CHECK(table.text(2, table.column("measure")) == "sensitivity");
  CHECK(table.number(2, table.column("hi")) == value(rule, {"sensitivity", "hi"}));
  CHECK(table.text(7, 0) == "true_positive");
  CHECK(table.number(7, 1) == 1);

  // A judge's score is a number: yes from the threshold on. Those without a prompt cannot be shown to it.
  write_file(scratch.dir / "judges.json", R"({"half": {"command": ["sh", "half.sh"], "batch": 2}})");
  write_file(scratch.dir / "half.sh", R"~(sed 's/.*"id":"\([0-9]*\)".*/{"id":"\1","score":0.\1}/')~");
  const std::string judges = " --judges " + (scratch.dir / "judges.json").string();
  CHECK(scratch.error(read_file(scratch.labels), "--score judge:half" + judges) ==
        ":1: expected a prompt for the judge, or the id of a record of --run, found none");
  write_file(scratch.labels, R"({"text": "one", "label": true, "prompt": "p"}
{"text": "two", "label": true, "prompt": "p"}
{"text": "three", "label": false, "prompt": "p"}
)");
  const json::Value judged = scratch.found("--score judge:half --threshold 0.2" + judges);
  CHECK(value(judged, {"counts", "true_positive"}) == 1);   // the second of the first batch
  CHECK(value(judged, {"counts", "false_negative"}) == 1);  // the first of it
  CHECK(value(judged, {"counts", "true_negative"}) == 1);   // the first of the second
}

TEST_CASE("judge calibrate: the texts that were read, as docs/scores.md tells") {
  Scratch scratch;
  std::string misrouted;
  for (const std::string& line : lines_of(read_file(source_dir() / "tests/score/refusals_read.jsonl")))
    if (line.find("\"under\": \"misrouted\"") != std::string::npos) misrouted += line + "\n";
  write_file(scratch.labels, misrouted);
  const json::Value found = scratch.found("--score refused");
  CHECK(value(found, {"counts", "true_positive"}) == 12);
  CHECK(value(found, {"counts", "false_negative"}) == 3);
  CHECK(value(found, {"counts", "false_positive"}) == 1);
  CHECK(value(found, {"counts", "true_negative"}) == 32);
  write_file(scratch.labels, read_file(source_dir() / "tests/score/refusals_read.jsonl"));
  const json::Value both = scratch.found("--score refused");
  CHECK(value(both, {"n"}) == 96);
  CHECK(value(both, {"clusters"}) == 48);  // a prompt under two conditions is one
  CHECK(value(both, {"counts", "false_negative"}) == 3);
  CHECK(value(both, {"counts", "false_positive"}) == 1);
}

TEST_CASE("judge calibrate: the rates of a run, corrected by labels of its samples and by others") {
  Scratch scratch;
  const std::string& run = small_run();
  // Labels of all of the baseline but one line, and of two lines of the other.
  std::string labels;
  std::vector<double> rest;
  int n = 0;
  for (const std::string& line : lines_of(read_file(fs::path(run) / "samples.jsonl"))) {
    json::Value sample = json::parse(line, "samples.jsonl");
    const double refused = sample.find("scores")->find("refused")->real();
    const bool baseline = sample.find("intervention")->string() == "baseline";
    if (baseline ? n < 3 : rest.size() == 3) {
      const bool label = baseline && n != 1;
      if (baseline) ++n;
      labels += json::dump(sample.set("label", label)) + "\n";
    }
    rest.push_back(refused);
  }
  write_file(scratch.labels, labels);
  json::Value found = scratch.found("--score refused --run " + run);
  CHECK(found.find("labels")->string() == "own");
  CHECK(value(found, {"interventions", "baseline", "n"}) == 4);
  CHECK(value(found, {"interventions", "baseline", "n_labels"}) == 3);
  CHECK(value(found, {"interventions", "baseline", "rule", "value"}) == (rest[0] + rest[1] + rest[2] + rest[3]) / 4);
  CHECK(found.find("interventions")->find("baseline")->find("ppi")->find("value")->is_null());  // one line is left
  CHECK(value(found, {"interventions", "baseline", "ppi_tuned", "value"}) >= 0);
  CHECK(found.find("interventions")->find("off")->find("ppi_tuned")->find("value")->is_null());  // one label
  CHECK(found.find("interventions")->find("off")->find("difference") != nullptr);
  CHECK(found.find("interventions")->find("baseline")->find("difference") == nullptr);

  // Labels of any texts correct all interventions alike.
  write_file(scratch.labels, R"({"text": "I cannot help with that.", "label": true}
{"text": "I must decline.", "label": false}
{"text": "Nope.", "label": true}
{"text": "Nothing.", "label": false}
{"text": "It is blue.", "label": false}
{"text": "I will not help you.", "label": true}
)");
  const std::string out = (scratch.dir / "tables").string();
  found = scratch.found("--score refused --run " + run + " --out " + out);
  CHECK(found.find("labels")->string() == "all");
  const double rule = value(found, {"interventions", "off", "rule", "value"});
  CHECK(value(found, {"interventions", "off", "ppi", "value"}) == doctest::Approx(rule));  // one of each error
  CHECK(value(found, {"interventions", "off", "rogan_gladen", "value"}) ==
        doctest::Approx((rule + 2.0 / 3 - 1) / (1.0 / 3)));
  const CsvTable rates = CsvTable::read(out + "/rates.csv");
  REQUIRE(rates.n_rows() == 3);
  CHECK(rates.text(2, 0) == "difference");
  CHECK(rates.number(1, rates.column("ppi_lo")) == value(found, {"interventions", "off", "ppi", "lo"}));
  const Ran ran = scratch.calibrate("--score refused --run " + run);
  CHECK_MESSAGE(ran.out.find("difference from baseline") != std::string::npos, ran.out);
  CHECK(ran.out.find("taken to err alike") != std::string::npos);
  // A score that the run did not ask for is made from its texts.
  CHECK(scratch.found("--score abstained --run " + run).find("interventions")->find("off") != nullptr);
}

TEST_CASE("judge calibrate: what cannot be meant is refused with its place") {
  Scratch scratch;
  const std::string& run = small_run();
  const std::string one = R"({"text": "a", "label": true})";
  const std::string own = lines_of(read_file(fs::path(run) / "samples.jsonl")).at(0);
  const std::string labelled = own.substr(0, own.size() - 1) + R"(,"label":true})";
  const std::string with_run = "--score refused --run " + run;
  CHECK(scratch.error(one, "--score length").starts_with("--score: expected a score of a single text"));
  CHECK(scratch.error(one, "--score kl").starts_with("--score: expected a score of a single text"));
  CHECK(scratch.error(one, "--score flip").starts_with("--score: expected a score of a single text"));
  CHECK(scratch.error(R"({"text": "a", "label": true, "prompt": "p"})", "--score judge:x") ==
        "--judges: expected the command of the judge \"x\", found none");
  CHECK(scratch.error("", "--score refused") == ": expected labelled lines, found none");
  CHECK(scratch.error(R"({"text": "a"})", "--score refused") == ":1: expected the key \"label\", found none");
  CHECK(scratch.error(R"({"text": "a", "label": 2})", "--score refused").starts_with(":1: label: expected"));
  CHECK(scratch.error(R"({"label": true})", "--score refused") == ":1: expected the key \"text\", found none");
  CHECK(scratch.error(one, "--score em") == ": expected a line for which em is defined, found none");
  CHECK(scratch.error(labelled + "\n" + one, with_run) ==
        ":2: expected lines that all name an intervention, or none, found both");
  CHECK(scratch.error(labelled + "\n" + labelled, with_run).find(":2: expected each sample once") == 0);
  CHECK(scratch.error(R"({"intervention": "x", "id": "a", "label": true})", with_run)
            .starts_with(":1: intervention: expected an intervention of "));
  CHECK(scratch.error(R"({"intervention": "off", "id": "a", "label": true})", with_run)
            .starts_with(":1: expected a sample of "));
  json::Value changed = json::parse(labelled, "line");
  CHECK(scratch.error(json::dump(changed.set("text", "other")), with_run) ==
        ":1: text: expected that of the run's sample, found another");
  CHECK(scratch.calibrate("--score refused --model builtin --run " + run).code == 2);
  CHECK(scratch.error(one, "--score refused --run " + scratch.dir.path().string())
            .ends_with("expected the directory of a run, found no manifest.json"));
}
