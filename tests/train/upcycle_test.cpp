// upcycle: its parts against what they promise, and the whole on a tiny model whose logits torch and transformers told.
#include "train/upcycle/upcycle.h"

#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/csv.h"
#include "base/error.h"
#include "engine/session.h"
#include "loaders/families/family.h"
#include "loaders/open.h"
#include "probes/activation_store.h"
#include "tests/support.h"
#include "train/upcycle/clusters.h"

using namespace signalbox;
using namespace signalbox::test;
using namespace signalbox::train;

namespace {

namespace fs = std::filesystem;

const fs::path source = source_dir() / "tests/train/upcycle.gguf";

json::Value upcycle_golden() { return json::parse_file(source_dir() / "tests/train/upcycle.json"); }

// The records of the goldens as a file.
std::string write_data(const fs::path& file) {
  const json::Value root = upcycle_golden();
  std::string lines;
  for (const json::Value& record : root.find("records")->items()) lines += json::dump(record) + "\n";
  write_file(file, lines);
  return file.string();
}

std::string upcycle_words(const std::string& data, const fs::path& out, const std::string& more = "") {
  return binary() + " upcycle " + source.string() + " --data " + data + " --out " + out.string() +
         " --experts 8 --shared 2 --active 3 --quiet " + more + " < /dev/null";
}

// [row] logits of the ids of the goldens.
std::vector<std::vector<float>> logits_of(const Session& session, const std::vector<int32_t>& ids) {
  Job job;
  job.prompt = std::make_shared<Prompt>("a", ids);
  job.task = Generate{0, {}};
  ActivationStore store("logits", session.shape, PointSet::parse("logits", session.shape));
  session.run({job}, session.options, {}, &store);
  store.finish(std::vector<std::string>{"a"});
  std::vector<std::vector<float>> out;
  for (size_t p = 0; p < ids.size(); ++p) {
    const auto row = store.row(Point::logits, -1, 0, static_cast<int64_t>(p));
    out.emplace_back(row.begin(), row.end());
  }
  return out;
}

std::vector<int32_t> golden_ids(const json::Value& root) {
  std::vector<int32_t> ids;
  for (const json::Value& id : root.find("ids")->items()) ids.push_back(static_cast<int32_t>(id.integer()));
  return ids;
}

// The largest difference to the rows of a golden: positions 0, 7 and the last.
double farthest(const std::vector<std::vector<float>>& logits, const json::Value& rows) {
  const size_t positions[] = {0, 7, logits.size() - 1};
  double most = 0;
  for (size_t r = 0; r < 3; ++r)
    for (size_t v = 0; v < logits[positions[r]].size(); ++v)
      most =
          std::max(most, std::fabs(static_cast<double>(logits[positions[r]][v]) - rows.items()[r].items()[v].real()));
  return most;
}

OpenOptions on_cpu() {
  OpenOptions options;
  options.device = {DeviceChoice::Kind::cpu, 0};
  options.threads = 2;
  return options;
}

double number_at(const CsvTable& csv, const std::string& plan, const std::string& kind, const char* column) {
  for (size_t row = 0; row < csv.n_rows(); ++row)
    if (csv.text(row, csv.column("plan")) == plan && csv.text(row, csv.column("kind")) == kind)
      return csv.number(row, csv.column(column));
  return NAN;
}

}  // namespace

TEST_CASE("upcycle: assignments of equal size are the cheapest ones") {
  // Against all ways of putting six items into three pairs.
  uint64_t state = 7;
  for (int round = 0; round < 20; ++round) {
    std::vector<double> costs(18);
    for (double& cost : costs)
      cost = static_cast<double>((state = state * 6364136223846793005u + 1442695040888963407u) >> 40);
    const std::vector<int32_t> found = balanced_assignment(costs, 6, 3);
    std::vector<int> order = {0, 0, 1, 1, 2, 2};
    double best = 1e300, mine = 0;
    do {
      double sum = 0;
      for (size_t i = 0; i < 6; ++i) sum += costs[i * 3 + static_cast<size_t>(order[i])];
      best = std::min(best, sum);
    } while (std::next_permutation(order.begin(), order.end()));
    for (size_t i = 0; i < 6; ++i) mine += costs[i * 3 + static_cast<size_t>(found[i])];
    CHECK(mine == doctest::Approx(best).epsilon(1e-12));
    for (int32_t c = 0; c < 3; ++c) CHECK(std::count(found.begin(), found.end(), c) == 2);
  }
}

TEST_CASE("upcycle: neurons that fire together are found together") {
  // Eight groups of five vectors along axes of their own, in an order that hides them.
  const int64_t n = 40, k = 8;
  std::vector<int32_t> truth(n);
  for (int64_t i = 0; i < n; ++i) truth[static_cast<size_t>(i)] = static_cast<int32_t>(i * 3 % k);
  std::vector<double> gram(n * n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      gram[static_cast<size_t>(i * n + j)] = i == j                                                           ? 1
                                             : truth[static_cast<size_t>(i)] == truth[static_cast<size_t>(j)] ? 0.8
                                                                                                              : 0.05;
  ThreadPool one(1), two(2);
  const std::vector<int32_t> found = balanced_clusters(gram, n, k, 1, two);
  CHECK(found == balanced_clusters(gram, n, k, 1, one));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      CHECK((found[static_cast<size_t>(i)] == found[static_cast<size_t>(j)]) ==
            (truth[static_cast<size_t>(i)] == truth[static_cast<size_t>(j)]));
}

TEST_CASE("upcycle: the dense model is torch's, the carved one transformers', with all experts on it is dense") {
  const TemporaryDirectory scratch;
  const std::string data = write_data(scratch / "data.jsonl");
  const Ran ran = run_command(upcycle_words(data, scratch / "out"));
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value root = upcycle_golden();
  const std::vector<int32_t> ids = golden_ids(root);
  const Session dense = open_session((scratch / "out/dense").string(), on_cpu());
  const auto dense_logits = logits_of(dense, ids);
  CHECK(farthest(dense_logits, *root.find("dense")) < 1e-4);  // rows of q and k left as stored: off by more than 1

  Session carved = open_session((scratch / "out").string(), on_cpu());
  CHECK(carved.model.n_experts() == 6);
  CHECK(carved.model.n_active() == 3);
  CHECK(farthest(logits_of(carved, ids), *root.find("carved")) < 1e-4);

  // The same neurons, columns of down as they were, a router of zeros, all experts on.
  std::vector<CarvedLayer> layers(2);
  for (size_t l = 0; l < 2; ++l) {
    layers[l].neurons.resize(64);
    std::iota(layers[l].neurons.rbegin(), layers[l].neurons.rend(), 0);
    layers[l].router.assign(6 * 32, 0);
  }
  for (Layer& layer : carved.model.layers) std::get<Moe>(layer.ffn).router.n_active = 6;
  BuiltModel built = routed_model(dense, carved.model, layers, {2, 6, 8}, DType::f32, false);
  Session all = open_session((scratch / "out").string(), on_cpu());
  all.model = built.model;
  all.shape = probe_shape(all.model);
  all.weights = built.weights;
  const auto all_logits = logits_of(all, ids);
  double most = 0;
  for (size_t p = 0; p < ids.size(); ++p)
    for (size_t v = 0; v < all_logits[p].size(); ++v)
      most = std::max(most, static_cast<double>(std::fabs(all_logits[p][v] - dense_logits[p][v])));
  CHECK(most < 1e-4);

  // What is told of it.
  const CsvTable quality = CsvTable::read(scratch / "out/quality.csv");
  CHECK(number_at(quality, "dense", "all", "kl") == 0);
  CHECK(number_at(quality, "every_expert", "all", "kl") < 1e-4);
  CHECK(number_at(quality, "upcycled", "all", "kl") > 0);
  CHECK(number_at(quality, "upcycled", "low", "kl_ci_lo") < number_at(quality, "upcycled", "low", "kl"));
  CHECK(number_at(quality, "upcycled", "all", "active_parameters") <
        number_at(quality, "dense", "all", "active_parameters"));
  const CsvTable lines = CsvTable::read(scratch / "out/layers.csv");
  REQUIRE(lines.n_rows() == 2);
  for (size_t row = 0; row < 2; ++row) {
    CHECK(lines.number(row, lines.column("error_refit")) <= lines.number(row, lines.column("error_linear")));
    CHECK(lines.number(row, lines.column("error_static_refit")) <= lines.number(row, lines.column("error_static")));
    CHECK(lines.number(row, lines.column("usage_entropy")) <= 1);
  }
  // Every token has three of six experts.
  const CsvTable routes = CsvTable::read(scratch / "out/routes.csv");
  REQUIRE(routes.n_rows() == 2 * 6 * 2);
  double shares = 0;
  for (size_t row = 0; row < routes.n_rows(); ++row) shares += routes.number(row, routes.column("share"));
  CHECK(shares == doctest::Approx(2 * 2 * 3));
  const json::Value card = json::parse_file(scratch / "out/card.json");
  CHECK(card.find("source")->find("license")->string() == "apache-2.0");
  CHECK(card.find("layout")->find("name")->string() == "S2A3E8");
  CHECK(!fs::exists(scratch / "out/carving"));
}

TEST_CASE("upcycle: killed and gone on, on other threads and chunks, the same bytes") {
  const TemporaryDirectory scratch;
  const std::string data = write_data(scratch / "data.jsonl");
  REQUIRE(run_command(upcycle_words(data, scratch / "whole", "--threads 2")).code == 0);
  // Killed as soon as a layer is carved, then once more when a plan is judged.
  for (const char* file : {"layer-0.safetensors", "quality-linear.json"}) {
    const std::string there = (scratch / "parts/carving/").string() + file;
    run_command("(" + upcycle_words(data, scratch / "parts", "--threads 1 --isa scalar --batch 3") +
                ") & p=$!; while kill -0 $p && ! [ -e " + there + " ]; do sleep 0.01; done 2> /dev/null; kill -9 $p");
  }
  const Ran ran = run_command(upcycle_words(data, scratch / "parts", "--threads 1 --batch 1"));
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  for (const char* file : {"model.safetensors", "config.json", "tokenizer.json", "quality.csv", "routes.csv",
                           "layers.csv", "card.json", "README.md", "dense/model.safetensors"})
    CHECK_MESSAGE(read_file(scratch / "whole" / file) == read_file(scratch / "parts" / file), file);
  // Other inputs do not go on with it.
  const Ran other = run_command(upcycle_words(data, scratch / "whole", "--seed 1"));
  CHECK(other.code == 1);
  CHECK(other.err.find("seed_of_draws: was 0, now 1") != std::string::npos);
}

TEST_CASE("upcycle: without text the dense model writes its own; what cannot be is refused") {
  const TemporaryDirectory scratch;
  const std::string words = binary() + " upcycle " + source.string() + " --quiet --out ";
  const auto refused = [&](const std::string& more) {
    return run_command(words + (scratch / "no").string() + more).err;
  };
  CHECK(refused(" --experts 7").find("--experts: expected a divisor of the 64 neurons") != std::string::npos);
  CHECK(refused(" --experts 8 --shared 8").find("--shared: expected at least 1 and fewer than the 8") !=
        std::string::npos);
  CHECK(refused(" --experts 8 --active 3").find("--active") != std::string::npos);
  CHECK(!fs::exists(scratch / "no"));

  const std::string data = write_data(scratch / "data.jsonl");
  std::string same = R"({"id":"other","tokens":[)";
  const json::Value root = upcycle_golden();
  for (const json::Value& id : root.find("records")->items()[3].find("tokens")->items())
    same += (same.back() == '[' ? "" : ",") + std::to_string(id.integer());
  write_file(scratch / "same.jsonl", same + "]}\n");
  const std::string overlap =
      run_command(upcycle_words(data, scratch / "overlap", "--eval " + (scratch / "same.jsonl").string())).err;
  CHECK(overlap.find("same.jsonl:1: expected no 64 tokens in a row") != std::string::npos);
  CHECK(overlap.find("data.jsonl:4") != std::string::npos);
  CHECK(!fs::exists(scratch / "overlap"));  // the corrected command may have it
}

TEST_CASE("upcycle: own text") {
  const TemporaryDirectory scratch;
  Upcycling up;
  up.file = gguf::File::open(source);
  up.dir = scratch / "out";
  up.carve.layout = {2, 3, 8};
  up.own_records = 10;
  up.own_length = 12;
  up.threads = 2;
  up.open = on_cpu();
  up.on_progress = [](const std::string&, int64_t, int64_t, const char*) {};
  up.on_note = [](const std::string&) {};
  CHECK(upcycle(up) == UpcycleEnd::complete);
  CHECK(upcycle(up) == UpcycleEnd::was_complete);
  CHECK(lines_of(read_file(up.dir / "own-text.jsonl")).size() == 10);
  CHECK(read_file(up.dir / "README.md").find("a fifth of the model's own text") != std::string::npos);
}

TEST_CASE("upcycle: what was carved learns from the dense model, killed or not to the same bytes") {
  const TemporaryDirectory scratch;
  const std::string data = write_data(scratch / "data.jsonl");
  REQUIRE(run_command(upcycle_words(data, scratch / "out")).code == 0);
  const auto words = [&](const std::string& out, const std::string& teacher) {
    return binary() + " train full " + (scratch / "out").string() + " --teacher " + teacher + " --data " + data +
           " --eval " + data +
           " --weights 'expert.*,shared.*' --steps 4 --lr 1e-3 --batch 5 --save-every 2 --quiet --out " +
           (scratch / out).string() + " < /dev/null";
  };
  const std::string dense = (scratch / "out/dense").string();
  const Ran ran = run_command(words("trained", dense));
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const CsvTable eval = CsvTable::read(scratch / "trained/eval.csv");
  const size_t loss = eval.column("loss");
  // The divergence that quality.csv tells of, before the first step, over other tokens; then less.
  CHECK(eval.number(0, loss) > 0.05);
  CHECK(eval.number(0, loss) < 5);
  CHECK(eval.number(eval.n_rows() - 1, loss) < 0.97 * eval.number(0, loss));

  const std::string state = (scratch / "killed/state.safetensors").string();
  run_command("(" + words("killed", dense) + ") & p=$!; while kill -0 $p && ! [ -e " + state +
              " ]; do sleep 0.01; done 2> /dev/null; kill -9 $p");
  REQUIRE(run_command(words("killed", dense)).code == 0);
  CHECK(read_file(scratch / "killed/model/model.safetensors") ==
        read_file(scratch / "trained/model/model.safetensors"));
  // Of itself there is nothing to learn.
  REQUIRE(run_command(words("own", (scratch / "out").string())).code == 0);
  CHECK(CsvTable::read(scratch / "own/eval.csv").number(0, loss) == doctest::Approx(0));
  const Ran other = run_command(words("other", "builtin"));
  CHECK(other.code == 1);
  CHECK(other.err.find("builtin: expected a teacher with the model's 288 tokens") != std::string::npos);
  CHECK(run_command(binary() + " train full builtin --data " + data + " --steps 1 --temperature 2 --out " +
                    (scratch / "no").string())
            .code == 2);
}
