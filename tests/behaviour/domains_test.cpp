// signalbox domains on the built-in model, and what its sentences make of the tables.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/json.h"
#include "eval/data/domain_prompts.h"
#include "eval/data/prompt_hash.h"
#include "eval/findings/domain_findings.h"
#include "tests/support.h"

namespace fs = std::filesystem;
using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

Ran domains(const std::string& arguments) { return run_command(binary() + " domains builtin " + arguments); }

// `n` records of each domain of the built-in model's own texts.
void write_texts(const fs::path& file, size_t n) {
  std::map<std::string, size_t> taken;
  std::string text;
  for (const std::string& line : lines_of(read_file(source_dir() / "tools/builtin/heldout/text.jsonl")))
    if (taken[json::parse(line, "text").find("domain")->string()]++ < n) text += line + "\n";
  write_file(file, text);
}

}  // namespace

TEST_CASE("domains: our own prompts are many, different and of every domain") {
  const std::vector<Record> records = domain_prompts(false);
  std::map<std::string, size_t> of_domain;
  std::set<std::string> ids, hashes;
  for (const Record& record : records) {
    ++of_domain[record.domain];
    ids.insert(record.id);
    hashes.insert(prompt_hash(record.prompt));
  }
  CHECK(of_domain.size() == 5);
  for (const auto& [domain, n] : of_domain) CHECK_MESSAGE(n >= 8, domain);
  CHECK(ids.size() == records.size());
  CHECK(hashes.size() == records.size());
  const std::vector<Record> messages = domain_prompts(true);
  REQUIRE(messages.size() == records.size());
  CHECK(messages[0].kind == Record::Kind::messages);
  CHECK(messages[0].messages.items()[0].find("content")->string() == records[0].prompt);
}

TEST_CASE("domains: a study of the built-in model, gone on with") {
  TemporaryDirectory scratch;
  const fs::path out = scratch / "study", input = scratch / "texts.jsonl";
  write_texts(input, 3);
  const std::string command =
      "--input " + input.string() + " --out " + out.string() + " --new-tokens 4 --resamples 19 --json";
  const Ran first = domains(command);
  REQUIRE_MESSAGE(first.code == 0, first.err);
  const json::Value found = json::parse(first.out, "domains");
  CHECK(found.find("findings")->items().size() >= 4);
  CHECK(found.find("values")->find("separation")->find("layers")->integer() == 5);
  for (const char* file : {"trace/trace.safetensors", "trace/records.jsonl", "trace/texts.jsonl", "analysis/usage.csv",
                           "analysis/domains.csv", "analysis/transitions.csv", "analysis/summary.json", "panel.html"})
    CHECK_MESSAGE(fs::exists(out / file), file);
  // Every text has as many new tokens as were asked for, past its end too.
  for (const std::string& line : lines_of(read_file(out / "trace/texts.jsonl")))
    CHECK(json::parse(line, "texts").find("finish_reason")->string() == "length");
  // Domains apart: the five texts differ in every layer, as analyze finds too.
  const std::string tables = read_file(out / "analysis/domains.csv");
  const Ran again = domains(command + " --threads 1");
  REQUIRE(again.code == 0);
  CHECK(again.err.find("trace: was complete") != std::string::npos);
  CHECK(again.err.find("analysis: was complete") != std::string::npos);
  CHECK(again.out == first.out);
  // Other tables are made anew from the same trace.
  const Ran other = domains(command + " --phase generated");
  REQUIRE(other.code == 0);
  CHECK(other.err.find("trace: was complete") != std::string::npos);
  CHECK(other.err.find("analysis: was complete") == std::string::npos);
  CHECK(read_file(out / "analysis/domains.csv") != tables);
  const CsvTable usage = CsvTable::read(out / "analysis/usage.csv");
  CHECK(usage.integer(0, usage.column("tokens")) == 6 * 3 * 4);
}

TEST_CASE("domains: what is refused, and what would be run") {
  TemporaryDirectory scratch;
  const fs::path input = scratch / "texts.jsonl";
  write_file(input, "{\"id\":\"a\",\"prompt\":\"x\",\"domain\":\"d\"}\n{\"id\":\"b\",\"prompt\":\"y\"}\n");
  const std::string out = " --out " + (scratch / "study").string();
  const Ran bare = domains("--input " + input.string() + out);
  CHECK(bare.code == 1);
  CHECK(bare.err == "signalbox: error: " + input.string() +
                        ":2: expected a key \"domain\" that says which domain the record belongs to, found none\n");
  CHECK(domains("--input " + input.string() + " --chat" + out).code == 2);
  CHECK(domains("--ignore-eos --stop-at-eos" + out).code == 2);
  const Ran plan = domains("--dry-run --json" + out);
  REQUIRE_MESSAGE(plan.code == 0, plan.err);
  const json::Value planned = json::parse(plan.out, "plan");
  REQUIRE(planned.find("domains")->items().size() == 5);
  CHECK(planned.find("domains")->items()[0].find("generated_tokens_at_most")->integer() == 1000);
  CHECK(planned.find("trace_bytes")->real() > 0);
  CHECK_FALSE(fs::exists(scratch / "study"));
}

TEST_CASE("domains: where every expert is active nothing is said to be used more") {
  TemporaryDirectory scratch;
  write_file(scratch / "usage.csv",
             "layer,expert,domain,count,tokens,share,mean_weight\r\n1,0,,200,200,1,1\r\n1,0,code,100,100,1,1\r\n"
             "1,0,tales,100,100,1,1\r\n");
  write_file(scratch / "domains.csv", "layer,chi2,df,p,cramers_v,p_permutation,q\r\n1,0,0,1,0,1,1\r\n");
  write_file(scratch / "consistency.csv", "layer,neighbours,consistency,expected,p,q\r\n1,198,1,1,1,1\r\n");
  write_file(scratch / "persistence.csv",
             "layer,expert,rate,p_stay,lag1,lag1_p,lag1_q,dwell_mean\r\n1,0,1,1,,,,100\r\n");
  write_file(scratch / "transitions.csv", "layer,from,to,count,probability,expected,p,q\r\n1,0,0,198,1,198,1,1\r\n");
  const DomainFindings found = domain_findings(scratch.path(), 3);
  CHECK(found.experts.rows.empty());
  CHECK(found.sentences.back().starts_with("Every token selects every expert of its layer"));
}

TEST_CASE("domains: sentences say what the tables hold") {
  TemporaryDirectory scratch;
  write_file(
      scratch / "usage.csv",
      "layer,expert,domain,count,tokens,share,mean_weight\r\n1,0,,30,200,0.15,1\r\n1,1,,170,200,0.85,1\r\n"
      "1,0,code,25,100,0.25,1\r\n1,1,code,75,100,0.75,1\r\n1,0,tales,5,100,0.05,1\r\n1,1,tales,95,100,0.95,1\r\n");
  write_file(scratch / "domains.csv",
             "layer,chi2,df,p,cramers_v,p_permutation,q\r\n1,15,1,0.001,0.28,0.002,0.004\r\n2,,0,,,,\r\n");
  write_file(scratch / "consistency.csv",
             "layer,neighbours,consistency,expected,p,q\r\n1,198,0.6,0.5,0.001,0.002\r\n2,198,0.3,0.5,0.2,0.2\r\n");
  write_file(scratch / "persistence.csv",
             "layer,expert,rate,p_stay,lag1,lag1_p,lag1_q,dwell_mean\r\n1,0,0.15,0.4,0.3,0.001,0.002,1.7\r\n"
             "1,1,0.85,0.9,0.5,0.2,0.2,9\r\n");
  write_file(
      scratch / "transitions.csv",
      "layer,from,to,count,probability,expected,p,q\r\n1,0,0,12,0.4,4.5,0.001,0.004\r\n1,0,1,18,0.6,25.5,1,1\r\n");
  const DomainFindings found = domain_findings(scratch.path(), 1);
  REQUIRE(found.sentences.size() == 4);
  CHECK(found.sentences[0] ==
        "Domains use different experts at 1 of 2 layers (q < 0.05, domains permuted over the prompts): most at layer 1 "
        "(Cramér's V 0.28, permutation p 0.0020).");
  CHECK(
      found.sentences[1] ==
      "Stickiness: a token shares 45.0 % of its experts with the token before it, and 50.0 % where the tokens of each "
      "text are shuffled (means over layers); more than shuffled at 1 of 2 layers and less at 0 (q < 0.05), most at "
      "layer 1 (60.0 % against 50.0 %).");
  CHECK(found.sentences[2] ==
        "Of 2 experts 1 depend on the token before (lag-1 correlation other than in shuffled texts, q < 0.05); the "
        "stickiest of them, layer 1 expert 0, takes 15.0 % of all tokens and 40.0 % of those that follow one of its "
        "own.");
  CHECK(found.sentences[3] ==
        "Succession: 1 of 2 pairs of first experts that occur one after the other do so more often than in shuffled "
        "texts (q < 0.05), most at layer 1 from 0 to 0 (12 times, expected 4.5).");
  REQUIRE(found.experts.rows.size() == 2);
  CHECK(std::get<int64_t>(found.experts.rows[0].cells[2]) == 0);
  CHECK(std::get<Estimate>(found.experts.rows[0].cells[3]).value == doctest::Approx(25));
  CHECK(std::get<Estimate>(found.experts.rows[0].cells[4]).value == doctest::Approx(5));
  CHECK(std::get<int64_t>(found.experts.rows[1].cells[2]) == 1);
  // Where q cannot be small, that is said.
  write_file(scratch / "summary.json", "{\"routing\":{\"resamples\":19}}");
  CHECK(domain_findings(scratch.path(), 1).sentences.back() ==
        "With 19 resamples no p is below 0.0500, so nothing above can have q < 0.05: ask for more (--resamples).");
  write_file(scratch / "summary.json", "{\"routing\":{\"resamples\":99}}");
  // With labels of experts, theirs beside.
  write_file(scratch / "specialists.csv",
             "layer,expert,label,domain,rate_ratio,ci_lo,ci_hi,p,q,effective_domains\r\n"
             "1,0,specialist,code,5,3,8,0.001,0.002,1.5\r\n1,1,undecided,,,,,,,\r\n");
  const DomainFindings labelled = domain_findings(scratch.path(), 1);
  REQUIRE(labelled.sentences.size() == 5);
  CHECK(labelled.sentences[1] ==
        "Of 2 experts 1 are specialists of a domain (code 1, tales 0), 0 generalists, and 1 undecided (specialists.csv "
        "says with what interval).");
  CHECK(std::get<Estimate>(labelled.experts.rows[0].cells[5]).hi == 8);
  CHECK(std::isnan(std::get<Estimate>(labelled.experts.rows[1].cells[5]).value));
}
