// The command: which files it writes, what it says, what it refuses.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "base/csv.h"
#include "base/json.h"
#include "tests/detect/hand_trace.h"
#include "tests/support.h"
#include "tools/signalbox/commands.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;
namespace fs = std::filesystem;

namespace {

struct Said {
  int code = 0;
  std::string out, err, error;
};

// Standard output and standard error of the command, run here.
Said analyze(std::vector<std::string> arguments) {
  TemporaryDirectory dir;
  arguments.insert(arguments.begin(), "analyze");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  std::fflush(stdout);
  std::fflush(stderr);
  const int saved[2] = {::dup(1), ::dup(2)};
  for (int i : {0, 1}) {
    const int file = ::open((dir / std::to_string(i)).c_str(), O_WRONLY | O_CREAT, 0600);
    ::dup2(file, i + 1);
    ::close(file);
  }
  Said said;
  try {
    said.code = analyze_command(static_cast<int>(argv.size()), argv.data());
  } catch (const UsageError& error) {
    said.code = 2;
    said.error = error.what();
  } catch (const Error& error) {
    said.code = 1;
    said.error = error.what();
  }
  std::fflush(stdout);
  std::fflush(stderr);
  for (int i : {0, 1}) {
    ::dup2(saved[i], i + 1);
    ::close(saved[i]);
  }
  said.out = read_file(dir / "0");
  said.err = read_file(dir / "1");
  return said;
}

void check_contains(const std::string& text, const std::string& part) {
  CAPTURE(text);
  CHECK(text.find(part) != std::string::npos);
}

HandSample sample(const std::string& id, const std::string& keys, int32_t expert) {
  HandToken first, second;
  first.first = expert;
  first.second = (expert + 1) % 4;
  first.spans = 1;
  second.first = 2;
  second.second = 3;
  return {"{\"id\":\"" + id + "\"" + (keys.empty() ? "" : "," + keys) + "}", {first, second, first}};
}

std::vector<HandSample> two_conditions() {
  std::vector<HandSample> samples;
  for (int i = 0; i < 6; ++i) {
    const std::string pair = "\"pair\":\"p" + std::to_string(i) + "\"";
    samples.push_back(sample("b" + std::to_string(i), R"("condition":"late:2",)" + pair, 1));
    samples.push_back(sample("a" + std::to_string(i), R"("condition":"early",)" + pair, 0));
  }
  return samples;
}

}  // namespace

TEST_CASE("analyze: a trace of two conditions") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", two_conditions());
  const std::string trace = (dir / "t").string();
  const Said said = analyze({trace, "--resamples", "200", "--threads", "1"});
  REQUIRE(said.code == 0);
  // The first condition seen minus the second, said on standard error.
  check_contains(said.err, "contrast: late:2 minus early");
  check_contains(said.out, "6 and 6 records (6 complete pairs), 18 and 18 tokens; 200 resamples, seed 0");
  check_contains(said.out, "smallest p that these records and resamples allow: 0.031");
  check_contains(said.out, "layer  expert");
  check_contains(said.err, "warning: 6 pairs: with fewer than 20 examples");
  check_contains(said.err, "warning: the smallest p is 0.031 (6 pairs): q < 0.05 over 4 rows needs 3 experts");
  check_contains(said.out, (dir / "t" / "analysis").string());
  const CsvTable rd = CsvTable::read(dir / "t/analysis/rd.csv");
  REQUIRE(rd.n_rows() == 4);
  CHECK(rd.integer(0, rd.column("a1_n")) == 0);
  CHECK(rd.integer(0, rd.column("a2_n")) == 12);
  CHECK(rd.number(0, rd.column("rd")) == -2.0 / 3);
  CHECK(fs::exists(dir / "t/analysis/usage.csv"));
  CHECK(!fs::exists(dir / "t/analysis/npmi.csv"));
  const json::Value summary = json::parse_file(dir / "t/analysis/summary.json");
  const json::Value& contrast = *summary.find("contrast");
  CHECK(contrast.find("a")->string() == "late:2");
  CHECK(contrast.find("resamples")->integer() == 200);
  CHECK(contrast.find("seed")->integer() == 0);
  CHECK(contrast.find("resampling_unit")->string() == "pair");
  CHECK(contrast.find("tests")->find("p")->string().find("swapped") != std::string::npos);
  CHECK(contrast.find("tokens_a")->integer() == 18);
  CHECK(contrast.find("smallest_p")->real() == 1.0 / 32);
  CHECK(contrast.find("family_wise")->boolean() == false);
  REQUIRE(summary.find("warnings")->items().size() == 2);
  CHECK(summary.find("warnings")->items()[0].string().starts_with("6 pairs"));
  CHECK(summary.find("records")->items().size() == 12);
  CHECK(summary.find("contrast")->find("pair_examples")->integer() == 6);
  CHECK(summary.find("traces")->items()[0].find("model_hash")->string() == "h");

  // The same bytes again, whatever the threads; another seed is another interval.
  const std::string before = read_file(dir / "t/analysis/rd.csv") + read_file(dir / "t/analysis/summary.json");
  REQUIRE(analyze({trace, "--resamples", "200", "--threads", "3"}).code == 0);
  CHECK(read_file(dir / "t/analysis/rd.csv") + read_file(dir / "t/analysis/summary.json") == before);

  // A name with a colon, the other way round, machine output, another directory.
  const std::string out = (dir / "other").string();
  const Said machine =
      analyze({trace, "--contrast", "early:late:2", "--resamples", "50", "--json", "--out", out, "--top", "2", "--span",
               "question", "--phase", "given", "--marker", "question", "--quiet", "--seed", "9"});
  REQUIRE(machine.code == 0);
  CHECK(machine.err.empty());
  const json::Value printed = json::parse(machine.out, "stdout");
  CHECK(printed.find("contrast")->find("a")->string() == "early");
  CHECK(printed.find("contrast")->find("b")->string() == "late:2");
  CHECK(printed.find("contrast")->find("seed")->integer() == 9);
  CHECK(printed.find("top")->items().size() == 2);
  CHECK(printed.find("top")->items()[0].find("rd")->real() == 1);
  CHECK(printed.find("span")->string() == "question");
  CHECK(printed.find("tokens")->integer() == 24);
  CHECK(printed.find("marker")->find("markers")->integer() == 24);
  CHECK(CsvTable::read(dir / "other/npmi.csv").n_rows() == 4);
  CHECK(json::parse_file(dir / "other/summary.json").find("top") == nullptr);

  // p_maxt is there when asked for.
  const Said family = analyze({trace, "--out", out, "--resamples", "50", "--family-wise", "--quiet"});
  REQUIRE(family.code == 0);
  check_contains(family.out, "shrunk  p_maxt");
  CHECK(family.err.empty());
  const CsvTable with = CsvTable::read(dir / "other/rd.csv");
  CHECK(with.header().back() == "p_maxt");
  for (size_t i = 0; i < with.n_rows(); ++i)
    CHECK(with.number(i, with.column("p_maxt")) >= with.number(i, with.column("p")));
  CHECK(json::parse_file(dir / "other/summary.json").find("contrast")->find("tests")->find("p_maxt") != nullptr);

  // Tables of an earlier analysis do not stay beside a summary that is not theirs.
  REQUIRE(analyze({trace, "--out", out, "--resamples", "50", "--marker-token", "1"}).code == 0);
  CHECK(CsvTable::read(dir / "other/npmi.csv").integer(0, 4) == 36);
  REQUIRE(analyze({trace, "--out", out, "--resamples", "50"}).code == 0);
  CHECK(!fs::exists(dir / "other/npmi.csv"));
}

TEST_CASE("analyze: records of other numbers of conditions, and several traces") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "one", {sample("x", R"("condition":"A","domain":"d")", 0)});
  const Said one = analyze({(dir / "one").string()});
  CHECK(one.code == 0);
  check_contains(one.err, "no rd.csv: the records have 1 condition");
  CHECK(!fs::exists(dir / "one/analysis/rd.csv"));
  CHECK(CsvTable::read(dir / "one/analysis/usage.csv").n_rows() == 8);
  CHECK(json::parse_file(dir / "one/analysis/summary.json").find("contrast") == nullptr);

  write_hand_trace(dir / "two", {sample("y", R"("condition":"B")", 1), sample("z", R"("condition":"C")", 1)});
  const Said missing = analyze({(dir / "one").string(), (dir / "two").string()});
  CHECK(missing.code == 2);
  check_contains(missing.error, "--out: expected a directory");
  const Said three = analyze({(dir / "one").string(), (dir / "two").string(), "--out", (dir / "o").string()});
  CHECK(three.code == 0);
  check_contains(three.err, "3 conditions");
  CHECK(!fs::exists(dir / "o/rd.csv"));
  const Said pooled = analyze({(dir / "one").string(), (dir / "two").string(), "--out", (dir / "o").string(),
                               "--contrast", "A:C", "--resamples", "10"});
  CHECK(pooled.code == 0);
  CHECK(CsvTable::read(dir / "o/rd.csv").number(0, 6) == doctest::Approx(2.0 / 3));
  const json::Value summary = json::parse_file(dir / "o/summary.json");
  CHECK(summary.find("traces")->items().size() == 2);
  CHECK(summary.find("records")->items().size() == 2);
  CHECK(summary.find("contrast")->find("resampling_unit")->string() == "record");
}

TEST_CASE("analyze: one pair has no interval") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t",
                   {sample("a", R"("condition":"A","pair":"p")", 0), sample("b", R"("condition":"B","pair":"p")", 1)});
  const Said said = analyze({(dir / "t").string(), "--resamples", "20"});
  REQUIRE(said.code == 0);
  check_contains(said.out, "undefined");
  check_contains(said.err, "warning: 1 pair: the spread between examples cannot be told from one");
  const CsvTable rd = CsvTable::read(dir / "t/analysis/rd.csv");
  for (const char* column : {"ci_lo", "ci_hi", "stable", "t"}) CHECK(rd.text(0, rd.column(column)).empty());
  CHECK(rd.number(0, rd.column("p")) == 1);
  const Said machine = analyze({(dir / "t").string(), "--resamples", "20", "--json", "--quiet"});
  CHECK(json::parse(machine.out, "stdout").find("top")->items()[0].find("ci_lo")->is_null());
}

TEST_CASE("analyze: what it refuses") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", two_conditions());
  const std::string trace = (dir / "t").string();
  const auto refused = [&](std::vector<std::string> flags, int code, const std::string& part) {
    flags.insert(flags.begin(), trace);
    const Said said = analyze(flags);
    CHECK(said.code == code);
    check_contains(said.error, part);
    CHECK(said.error.find('\n') == std::string::npos);
    CHECK(!fs::exists(dir / "t/analysis"));
  };
  refused({"--contrast", "early"}, 2, "--contrast: expected A:B, found \"early\"");
  refused({"--contrast", "early:"}, 2, "--contrast: expected A:B");
  refused({"--contrast", "early:never"}, 1, "expected a condition of the records (");
  refused({"--span", "document"}, 1, "expected a span of the trace (question, answer), found \"document\"");
  refused({"--span", "answer"}, 1, "found none");
  refused({"--phase", "generated"}, 1, "tokens that count, found none");
  refused({"--phase", "other"}, 2, "--phase");
  refused({"--resamples", "0"}, 2, "--resamples");
  refused({"--seed", "-1"}, 2, "--seed");
  refused({"--threads", "-1"}, 2, "--threads");
  refused({"--stable-top", "0"}, 2, "--stable-top");
  refused({"--marker", "question", "--marker-token", "3"}, 2, "excludes");
  refused({"--marker-token", "3"}, 1, "marker tokens (id 3)");
  refused({"--span", ""}, 2, "expected a value, found an empty one");
  const Said nowhere = analyze({(dir / "none").string()});
  CHECK(nowhere.code == 1);
  check_contains(nowhere.error, "expected a trace directory (trace.safetensors) or a run directory");
  CHECK(analyze({}).code == 2);
}
