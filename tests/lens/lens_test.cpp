// signalbox lens: against rows that numpy made of the reference implementation's tensors, and against the model's own
// logits, to which its parts add up in every family and under edits.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "base/csv.h"
#include "base/json.h"
#include "eval/data/record_jobs.h"
#include "eval/lens/lens_rows.h"
#include "loaders/open.h"
#include "tests/lens/lens_runs.h"
#include "tests/memory_sink.h"
#include "tests/tolerances.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

// id, position, layer, point, token of a row.
using Key = std::tuple<std::string, std::string, std::string, std::string, std::string>;

std::map<Key, std::vector<std::string>> rows_by_key(const CsvTable& table) {
  std::map<Key, std::vector<std::string>> rows;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    std::vector<std::string> cells;
    for (size_t c = 0; c < table.header().size(); ++c) cells.push_back(table.text(r, c));
    rows[{cells[0], cells[1], cells[2], cells[3], cells[5]}] = cells;
  }
  return rows;
}

// Rows of the golden file of one kind ("top", "tokens") are the program's, with nothing left over.
void check_rows(const std::string& family, const std::string& kind, const CsvTable& found) {
  const CsvTable golden = CsvTable::read(goldens_dir() / "lens" / (family + ".csv"));
  const auto rows = rows_by_key(found);
  size_t n = 0;
  double worst = 0, largest = 1;
  for (size_t r = 0; r < golden.n_rows(); ++r) {
    if (golden.text(r, 0) != kind) continue;
    ++n;
    const auto at = rows.find({"p0", golden.text(r, 1), golden.text(r, 2), golden.text(r, 3), golden.text(r, 5)});
    CAPTURE(golden.place(r));
    REQUIRE(at != rows.end());
    CHECK(at->second[4] == golden.text(r, 4));
    const double logit = golden.number(r, 6);
    largest = std::max(largest, std::abs(logit));
    worst = std::max(worst, std::abs(std::stod(at->second[7]) - logit));
    CHECK(at->second[8].empty() == golden.text(r, 7).empty());
    if (!at->second[8].empty()) worst = std::max(worst, std::abs(std::stod(at->second[8]) - golden.number(r, 7)));
  }
  CHECK(n > 50);
  CHECK(found.n_rows() == n);
  CHECK(worst <= tolerance::forward * largest);
}

// Rows of one run of the library, by token: [entry][token of the vocabulary].
struct Sums {
  double worst = 0;         // of the sum of parts against the model's logits
  double worst_routed = 0;  // of the sum of experts against moe.routed
  int64_t n_tokens = 0, n_edit_rows = 0;
  bool as_said = true;  // the tokens asked for, with a log p at the stream alone
};

Sums sums_of(const std::string& family, const std::string& edits) {
  OpenOptions open;
  open.threads = 2;
  const Session session = open_session((goldens_dir() / family / "model").string(), open);
  const auto n_vocab = static_cast<size_t>(session.model.n_vocab);
  const std::vector<Record> records = read_records((goldens_dir() / family / "records.jsonl").string());
  std::shared_ptr<const EditPlan> plan;
  if (!edits.empty()) {
    const json::Value value = json::parse(edits, "edits");
    plan = session.edits(json::Ref(value, "edits"), goldens_dir() / family / "edits", 7);
  }
  const RecordJobs made = make_jobs(session, records, Generate{}, plan);
  LensOptions options;
  options.parts = true;
  for (int32_t l = 0; l < session.shape.n_layers(); ++l) options.layers.push_back(l);
  for (size_t v = 0; v < n_vocab; ++v) options.tokens.push_back(static_cast<int32_t>(v));
  TokenChoice choice;
  choice.end = 14;
  const ChosenTokens chosen(choice, made.encoded, made.span_names);
  TemporaryDirectory dir;
  LensRows rows(session, made.jobs, chosen, options, dir.path());
  CHECK(session.run(made.jobs, session.options, {}, &rows));
  MemorySink sink(PointSet::parse("logits", session.shape));
  CHECK(session.run(made.jobs, session.options, {}, &sink));
  Sums sums;
  rows.read_all([&](const LensToken& token) {
    ++sums.n_tokens;
    std::vector<double> total(n_vocab, 0), routed(n_vocab, 0);
    for (size_t e = 0; e < rows.entries().size(); ++e) {
      const LensEntry& entry = rows.entries()[e];
      using enum LensEntry::Kind;
      sums.n_edit_rows += entry.kind == edit;
      for (size_t v = 0; v < n_vocab; ++v) {
        const TokenReading& one = token.readings[e * n_vocab + v];
        sums.as_said = sums.as_said && one.token == static_cast<int32_t>(v) && std::isnan(one.logprob) == entry.share();
        if (entry.kind == expert) {
          if (token.experts[e] >= 0) routed[v] -= one.logit;
        } else if (entry.share()) {
          total[v] += one.logit;
        }
        if (entry.kind == moe_routed) routed[v] += one.logit;
      }
    }
    const float* logits =
        sink.samples.at(token.record).at("logits").data.data() + token.position * session.model.n_vocab;
    for (size_t v = 0; v < n_vocab; ++v) {
      sums.worst = std::max(sums.worst, std::abs(total[v] - static_cast<double>(logits[v])));
      sums.worst_routed = std::max(sums.worst_routed, std::abs(routed[v]));
    }
  });
  return sums;
}

}  // namespace

TEST_CASE("lens: rows, ranks and shares of the reference implementation's tensors") {
  for (const char* const family :
       {"deepseek_v2_full", "deepseek_v2_lite", "gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"}) {
    CAPTURE(std::string(family));
    for (const char* const kind : {"top", "tokens"}) {
      const std::string tokens = std::string(kind) == "top" ? "--top 2" : "--tokens 7,0,90";
      const LensRun run("lens", family, tokens + " --parts --positions 38:", true);
      check_rows(family, kind, run.table("lens.csv"));
    }
  }
}

TEST_CASE("lens: parts add up to the logits in every family") {
  for (const char* const family :
       {"deepseek_v2_full", "deepseek_v2_lite", "gpt_oss", "gpt_oss_mxfp4", "mixtral", "mixtral_bf16",
        "mixtral_window_f16", "olmoe", "qwen2_moe", "qwen2_moe_step_bf16", "qwen3_moe"}) {
    CAPTURE(std::string(family));
    const Sums sums = sums_of(family, "");
    CHECK(sums.n_tokens == 28);
    CHECK(sums.as_said);
    CHECK(sums.worst <= 1e-4);
    CHECK(sums.worst_routed <= 1e-4);
    CHECK(sums.n_edit_rows == 0);
  }
}

TEST_CASE("lens: parts add up under edits, of routes, of parts and of the stream itself") {
  const char* const routes = R"([{"op":"scale_expert","by":0.25,"experts":[1,2]},{"op":"top_k","k":3},
      {"op":"deactivate","mode":"ban","experts":[0]}])";
  const char* const parts = R"([{"op":"ablate","point":"attn.out","layers":"0","value":"zero"},
      {"op":"ablate","point":"expert.out","experts":[1,3],"value":"zero"},{"op":"misroute","policy":"next_best","weights":"hole"},
      {"op":"scale_shared","by":0.5}])";
  const char* const stream = R"([{"op":"ablate","point":"moe.out","layers":"1","value":"zero"},
      {"op":"add","point":"resid_mid","layers":"0","vector":"vectors.safetensors:d_model","scale":0.5},
      {"op":"add","point":"resid_in","layers":"1","vector":"vectors.safetensors:d_model","scale":-0.25},
      {"op":"add","point":"resid_out","layers":"1","vector":"vectors.safetensors:d_model","scale":1.5}])";
  for (const char* const family : {"qwen2_moe", "deepseek_v2_lite"})
    for (const char* const edits : {routes, parts}) {
      CAPTURE(std::string(family));
      CAPTURE(std::string(edits));
      const Sums sums = sums_of(family, edits);
      CHECK(sums.worst <= 1e-4);
      CHECK(sums.worst_routed <= 1e-4);
      CHECK(sums.n_edit_rows == 0);
    }
  for (const char* const family : {"gpt_oss", "deepseek_v2_lite"}) {
    CAPTURE(std::string(family));
    const Sums sums = sums_of(family, stream);
    CHECK(sums.worst <= 1e-4);
    CHECK(sums.n_edit_rows == 2 * sums.n_tokens);  // layers 0 and 1
  }
}

TEST_CASE("lens: the last layer is the model, and nothing depends on batch, chunk and choice") {
  const LensRun whole("lens", "olmoe", "--top 3 --parts"),
      pieces("lens", "olmoe", "--top 3 --parts --batch 1 --chunk 3");
  CHECK(whole.file("lens.csv") == pieces.file("lens.csv"));
  CHECK(whole.file("summary.json") == pieces.file("summary.json"));
  const json::Value summary = json::parse(whole.file("summary.json"), "summary");
  CHECK(summary.find("n_tokens")->integer() == 81);
  CHECK(summary.find("n_rows")->integer() == static_cast<int64_t>(whole.table("lens.csv").n_rows()));
  CHECK(summary.find("parts")->boolean());
  CHECK(summary.find("edits")->is_null());

  const auto all = rows_by_key(whole.table("lens.csv"));
  const std::vector<std::pair<const char*, const char*>> choices = {{"--layers 1 --positions 5:9", "8"},
                                                                    {"--span question", "25"},
                                                                    {"--positions last", "2"},
                                                                    {"--positions 40:", "1"}};
  for (const auto& choice : choices) {
    CAPTURE(std::string(choice.first));
    const LensRun run("lens", "olmoe", std::string("--top 3 --parts ") + choice.first);
    const auto some = rows_by_key(run.table("lens.csv"));
    std::set<std::pair<std::string, std::string>> tokens;
    for (const auto& row : some) {
      tokens.emplace(std::get<0>(row.first), std::get<1>(row.first));
      REQUIRE(all.count(row.first) == 1);
      CHECK(all.at(row.first) == row.second);
    }
    CHECK(std::to_string(tokens.size()) == choice.second);
  }
  // Without a tokenizer a token has no text.
  for (const auto& row : all) REQUIRE(row.second[6].empty());
}

TEST_CASE("lens: a directory of others is left alone, and new rows take the places of old ones") {
  TemporaryDirectory dir;
  const std::string command = binary() + " lens " + (goldens_dir() / "olmoe/model").string() + " --input " +
                              (goldens_dir() / "olmoe/records.jsonl").string() + " --quiet --out " +
                              (dir / "out").string();
  CHECK(run_command(command + " --top 1").code == 0);
  const std::string first = read_file(dir / "out/lens.csv");
  CHECK(run_command(command + " --top 2").code == 0);
  CHECK(read_file(dir / "out/lens.csv").size() > first.size());
  write_file(dir / "out/notes.txt", "mine\n");
  const Ran among = run_command(command + " --top 1");
  CHECK(among.code == 1);
  CHECK(among.err.find("expected an empty directory or one that holds a lens, found \"notes.txt\" in it") !=
        std::string::npos);
  CHECK(read_file(dir / "out/notes.txt") == "mine\n");
  write_file(dir / "file", "");
  const Ran ran = run_command(binary() + " lens " + (goldens_dir() / "olmoe/model").string() + " --input " +
                              (goldens_dir() / "olmoe/records.jsonl").string() + " --out " + (dir / "file").string());
  CHECK(ran.code == 1);
  CHECK(ran.err.starts_with("signalbox: error: " + (dir / "file").string()));
}

TEST_CASE("lens and vocabulary: what cannot be meant is refused") {
  TemporaryDirectory dir;
  write_file(dir / "empty.jsonl", "");
  write_file(dir / "none.jsonl", "{\"id\":\"a\",\"tokens\":[]}\n");
  write_file(dir / "one.jsonl", "{\"id\":\"a\",\"tokens\":[3]}\n");
  const std::vector<std::tuple<std::string, std::string, std::string>> cases = {
      {"lens", "--top 97", "--top: expected from 1 to the 96 tokens of the vocabulary, found 97"},
      {"lens", "--tokens 5,96", "--tokens: expected ids below 96, found 96"},
      {"lens", "--tokens 5,7,5", "--tokens: expected each token once, found 5 twice"},
      {"lens", "--tokens -1", "--tokens: expected a whole number from 0 to"},
      {"lens", "--tokens x", "--tokens: expected a whole number from 0 to"},
      {"lens", "--tokens 1 --top 2", "--top: expected no --tokens beside it, found them"},
      {"lens", "--layers 9", "--layers: expected layers below "},
      {"lens", "--layers x", "--layers: expected \"all\" or layers such as \"3-20,25\", found \"x\""},
      {"lens", "--positions 3", "--positions: expected all, last or a range BEGIN:END (\"0:32\", \"5:\"), found \"3\""},
      {"lens", "--positions 60:", "--positions, --span: expected a token to look at, found none in 2 records"},
      {"lens", "--span quest", "--span: expected a span of the records ("},
      {"lens", "--part", "--part"},
      {"vocabulary", "--layers 0", "--layers: expected layers with a router (1-"},
      {"vocabulary", "--min-count 1000", "--min-count: expected an expert that 1000 tokens selected, found none"},
      {"vocabulary", "--top 0", "--top: expected a whole number from 1 to"},
  };
  const std::string model = (goldens_dir() / "deepseek_v2_lite/model").string();
  const auto refused = [&](const std::string& command, const std::string& input, const std::string& flags) {
    return run_command(binary() + " " + command + " " + model + " --input " + input + " " + flags + " --quiet --out " +
                       (dir / "out").string());
  };
  for (const auto& one : cases) {
    const std::string &command = std::get<0>(one), &flags = std::get<1>(one), &said = std::get<2>(one);
    CAPTURE(flags);
    const Ran ran = refused(command, (goldens_dir() / "deepseek_v2_lite/records.jsonl").string(), flags);
    CAPTURE(ran.err);
    CHECK(ran.code != 0);
    CHECK(ran.err.find(said) != std::string::npos);
    CHECK(lines_of(ran.err).size() == 1);
    CHECK(!std::filesystem::exists(dir / "out/lens.csv"));
  }
  CHECK(refused("lens", (dir / "empty.jsonl").string(), "").code == 1);
  CHECK(refused("lens", (dir / "none.jsonl").string(), "").err.find("none.jsonl:1") != std::string::npos);
  CHECK(refused("lens", (dir / "one.jsonl").string(), "--parts").code == 0);  // one token is enough
  std::filesystem::remove_all(dir / "out");
  CHECK(refused("vocabulary", (dir / "one.jsonl").string(), "").code == 0);
  CHECK(run_command(binary() + " lens " + model + " --input " + (dir / "one.jsonl").string()).code == 2);  // no --out
}

TEST_CASE("token reader: the largest, ranks of given tokens, ties to the lower token") {
  const std::vector<float> logits = {1, 3, 3, -2, 3, 0};
  std::vector<TokenReading> out(4);
  CHECK(TokenReader(4, {}, 6).read(logits, true, out));
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  const std::vector<std::pair<int32_t, double>> expected = {{1, 3}, {2, 3}, {4, 3}, {0, 1}};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(out[i].token == expected[i].first);
    CHECK(out[i].rank == static_cast<int32_t>(i) + 1);
    CHECK(out[i].logprob == doctest::Approx(expected[i].second - std::log(sum)).epsilon(1e-12));
  }
  std::vector<TokenReading> given(3);
  CHECK(TokenReader(1, {3, 4, 1}, 6).read(logits, false, given));
  CHECK((given[0].rank == 6 && given[1].rank == 3 && given[2].rank == 1));
  CHECK(std::isnan(given[0].logprob));
  std::vector<TokenReading> all(6);
  CHECK(TokenReader(6, {}, 6).read(logits, false, all));
  CHECK((all[4].token == 5 && all[5].token == 3));
  CHECK_FALSE(TokenReader(4, {}, 6).read(std::vector<float>{1, NAN, 3, 4, 5, 6}, false, out));
}
