// Expert-specialised fine-tuning: scores, selection, files in both directions; train experts and train apply-experts by
// their commands, and the course of a training that train full shares: kills, flags, drift, what it refuses.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "loaders/open.h"
#include "tests/kills.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"
#include "train/drift.h"
#include "train/expert_choice.h"
#include "train/expert_files.h"

namespace {

using namespace signalbox;
using namespace signalbox::engine;
using namespace signalbox::test;
using namespace signalbox::train;
namespace fs = std::filesystem;

std::string some_records(size_t first, size_t count) {
  const std::vector<std::string> lines = lines_of(read_file(source_dir() / "tests/compress/golden/records.jsonl"));
  std::string out;
  for (size_t i = first; i < first + count; ++i) out += lines.at(i) + "\n";
  return out;
}

Ran train_by(const std::string& words) { return run_command(binary() + " train " + words); }

std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  for (size_t at = 0; at < line.size();) {
    const size_t end = std::min(line.find(' ', at), line.size());
    if (end > at) words.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

int64_t total(const ExpertsByLayer& experts) {
  int64_t n = 0;
  for (const auto& one : experts) n += static_cast<int64_t>(one.second.size());
  return n;
}

}  // namespace

TEST_CASE("experts: taken by falling score until the sum has reached p") {
  const std::vector<double> scores = {0.125, 0.5, 0.125, 0.25};
  CHECK(choose_experts(scores, 0.5) == std::vector<int32_t>{1});  // reached, so none is added
  CHECK(choose_experts(scores, 0.51) == std::vector<int32_t>{1, 3});
  CHECK(choose_experts(scores, 0.8) == std::vector<int32_t>{0, 1, 3});  // of equal ones the first
  CHECK(choose_experts(scores, 5) == std::vector<int32_t>{0, 1, 2, 3});
  CHECK(choose_experts(scores, 0).empty());
}

TEST_CASE("experts: scores are means over samples of means over tokens, whatever shares a forward") {
  for (const std::string name : {"mixtral", "olmoe", "qwen2_moe"}) {
    CAPTURE(name);
    Session session = loaders::open_session(golden_model(name), {});
    std::vector<Example> examples;
    for (int64_t i = 0; i < 5; ++i) examples.push_back(example(i));
    std::vector<const Example*> samples;
    for (const Example& one : examples) samples.push_back(&one);
    Forward forward = session.forward(0);
    const std::vector<LayerScores> all = expert_scores(forward, samples, {}, {});
    const std::vector<LayerScores> apart = expert_scores(forward, samples, {1, 64}, {});
    REQUIRE(all.size() == session.model.moe_layers().size());
    std::vector<LayerScores> mean = all;
    for (LayerScores& of : mean) std::fill(of.gate.begin(), of.gate.end(), 0.0);
    for (const Example* one : samples) {
      const std::vector<LayerScores> alone = expert_scores(forward, {&one, 1}, {}, {});
      for (size_t l = 0; l < mean.size(); ++l)
        for (size_t e = 0; e < mean[l].gate.size(); ++e) mean[l].gate[e] += alone[l].gate[e] / 5;
    }
    for (size_t l = 0; l < all.size(); ++l) {
      CHECK(all[l].layer == session.model.moe_layers()[l]);
      double tokens = 0, gates = 0;
      for (size_t e = 0; e < all[l].gate.size(); ++e) {
        CHECK(all[l].gate[e] == apart[l].gate[e]);
        CHECK(all[l].token[e] == apart[l].token[e]);
        CHECK(all[l].gate[e] == doctest::Approx(mean[l].gate[e]).epsilon(1e-12));
        tokens += all[l].token[e];
        gates += all[l].gate[e];
      }
      CHECK(tokens == doctest::Approx(1).epsilon(1e-12));
      // Weights that are divided by their sum add up to 1, others to the mass of the chosen.
      if (name == "mixtral") {
        CHECK(gates == doctest::Approx(1).epsilon(1e-6));
      } else {
        CHECK(gates < 0.99);
      }
    }
  }
}

TEST_CASE("experts: a planted specialist is the first to be taken") {
  const TemporaryDirectory dir;
  write_file(
      dir / "spec.json",
      R"({"family": "olmoe", "tokenizer": "bytes", "planted": [{"layer": 1, "expert": 3, "tokens": [48, 49]}]})");
  REQUIRE(
      run_command(binary() + " make-model " + (dir / "spec.json").string() + " --out " + (dir / "m").string()).code ==
      0);
  write_file(dir / "data.jsonl", "{\"id\":\"a\",\"tokens\":[48,49,48,49,49,48,48,49]}\n");
  const Ran ran = train_by("experts " + (dir / "m").string() + " --data " + (dir / "data.jsonl").string() +
                           " --select gate --p 0.01 --steps 1 --quiet --out " + (dir / "out").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  Session session = loaders::open_session((dir / "m").string(), {});
  const ExpertConfig config = read_expert_config(dir / "out/expert_cfg.json", session.model);
  CHECK(config.experts.at(1) == std::vector<int32_t>{3});
}

TEST_CASE("experts: what is not chosen stays bit by bit, and the written experts are the model's own again") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", some_records(0, 6));
  write_file(dir / "other.jsonl", some_records(6, 4));
  const std::string common =
      " --data " + (dir / "data.jsonl").string() + " --steps 2 --lr 1e-2 --batch 3 --quiet --out ";
  for (const std::string name : {"qwen2_moe", "mixtral_bf16", "qwen3_moe_resaved", "gpt_oss"}) {
    CAPTURE(name);
    const std::string model = golden_model(name);
    const Ran ran = train_by("experts " + model + " --select token --drift " + (dir / "other.jsonl").string() + common +
                             (dir / name).string());
    REQUIRE_MESSAGE(ran.code == 0, ran.err);
    Session session = loaders::open_session(model, {});
    const ExpertConfig config = read_expert_config(dir / name / "expert_cfg.json", session.model);
    CHECK(read_file(dir / name / "expert_cfg.json") == expert_config_json(config));
    const WeightValues before = values_of(model), after = values_of(dir / name);
    int64_t changed = 0;
    for_each_tensor(session.model, session.weights, [&](const TensorPlace& place) {
      const std::string tensor = weight_name(place.id);
      const bool same = before.at(tensor) == after.at(tensor);
      if (!config.has(place.id)) CHECK_MESSAGE(same, tensor);
      changed += !same;
    });
    CHECK(changed >= 2 * total(config.experts));
    // Into the model again: the same files. A family whose hub checkpoints have no tensor for each expert has no such
    // directory.
    if (name == "gpt_oss") {
      CHECK_FALSE(fs::exists(dir / name / "esft"));
    } else {
      const Ran applied = train_by("apply-experts " + model + " " + (dir / name / "esft").string() + " --out " +
                                   (dir / (name + "-a")).string());
      REQUIRE_MESSAGE(applied.code == 0, applied.err);
      for (const auto& entry : fs::directory_iterator(dir / (name + "-a"))) {
        const std::string file = entry.path().filename().string();
        if (file == "manifest.json" || file == "log.txt") continue;
        CHECK_MESSAGE(read_file(entry.path()) == read_file(dir / name / file), file);
      }
    }
    // drift.csv: a row a layer and one of all.
    const CsvTable drift = CsvTable::read(dir / name / "drift.csv");
    REQUIRE(drift.n_rows() == session.model.moe_layers().size() + 1);
    CHECK(drift.text(drift.n_rows() - 1, 0) == "all");
    CHECK(drift.number(drift.n_rows() - 1, drift.column("kl")) > 0);
    CHECK(drift.number(drift.n_rows() - 1, drift.column("jaccard_weighted")) <= 1);
    if (name == "qwen2_moe") CHECK(drift.number(drift.n_rows() - 1, drift.column("changed_slots")) > 0);
  }
  // By a configuration: the same training. At random: as many of each layer, of a seed.
  const std::string model = golden_model("qwen2_moe");
  REQUIRE(train_by("experts " + model + " --config " + (dir / "qwen2_moe/expert_cfg.json").string() + common +
                   (dir / "by-file").string())
              .code == 0);
  CHECK(read_file(dir / "by-file/model.safetensors") == read_file(dir / "qwen2_moe/model.safetensors"));
  REQUIRE(train_by("experts " + model + " --select random:4:token" + common + (dir / "random").string()).code == 0);
  Session session = loaders::open_session(model, {});
  const ExpertConfig chosen = read_expert_config(dir / "qwen2_moe/expert_cfg.json", session.model),
                     random = read_expert_config(dir / "random/expert_cfg.json", session.model);
  CHECK(random.experts != chosen.experts);
  for (const auto& one : chosen.experts) CHECK(random.experts.at(one.first).size() == one.second.size());
  CHECK(random.experts == random_experts(chosen.experts, session.model, 4));
}

TEST_CASE("experts: a model has not drifted from itself") {
  Session session = loaders::open_session(golden_model("olmoe"), {});
  std::vector<Example> examples = {example(0), example(1)};
  const std::vector<const Example*> pointers = {&examples[0], &examples[1]};
  Forward a = session.forward(0), b = session.forward(0);
  const std::vector<Drift> rows = route_drift(a, b, pointers, {});
  REQUIRE(rows.size() == 4);
  CHECK(rows.back().tokens == examples[0].n_tokens() + examples[1].n_tokens());
  for (const Drift& row : rows) {
    CHECK(row.changed_slots == 0);
    CHECK(row.jaccard_weighted == 1);
    CHECK(row.entropy_before == row.entropy_after);
    CHECK(row.dead_before == row.dead_after);
  }
  CHECK(rows.back().kl == doctest::Approx(0).epsilon(1e-12));
  CHECK(rows.back().same_top == 1);
}

TEST_CASE("experts: files that do not fit are refused by name") {
  const TemporaryDirectory dir;
  Session session = loaders::open_session(golden_model("olmoe"), {});
  const auto said = [&](const std::string& text) {
    write_file(dir / "c.json", text);
    try {
      read_expert_config(dir / "c.json", session.model);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto refuses = [&](const std::string& text, const std::string& why) {
    CHECK_MESSAGE(said(text).find(why) != std::string::npos, said(text));
  };
  CHECK(said(R"({"experts": {"0": [1, 0]}})").empty());
  refuses(R"({"experts": {"0": [8]}})", "experts.0[0]");
  refuses(R"({"experts": {"0": [1, 1]}})", "found one twice");
  refuses(R"({"experts": {"7": [1]}})", "expected layers with a router (0, 1, 2), found \"7\"");
  refuses(R"({"experts": {"0": []}})", "expected experts or other parts to train, found none");
  refuses(R"({"experts": {"0": [1]}, "lr": 1})", "lr");
  CHECK(said(R"({"experts": {}, "shared_experts": false, "non_expert_modules": true})").empty());
  refuses(R"({"experts": {"0": [1]}, "shared_experts": true})", "shared_experts: expected false, as this model has no");
  const Session shares = loaders::open_session(golden_model("qwen2_moe"), {});
  write_file(dir / "c.json", R"({"experts": {}, "shared_experts": true, "non_expert_modules": false})");
  CHECK(read_expert_config(dir / "c.json", shares.model).shared_experts);
  // A directory whose tensors are not those of its configuration.
  write_file(dir / "data.jsonl", some_records(0, 2));
  REQUIRE(train_by("experts " + golden_model("olmoe") + " --experts 0:1,2:3 --steps 1 --quiet --data " +
                   (dir / "data.jsonl").string() + " --out " + (dir / "out").string())
              .code == 0);
  const std::string apply = "apply-experts " + golden_model("olmoe") + " " + (dir / "out/esft").string() + " --out " +
                            (dir / "applied").string();
  write_file(dir / "out/esft/expert_cfg.json", R"({"experts": {"0": [1]}})");
  CHECK(train_by(apply).err.find("expected tensors that expert_cfg.json names") != std::string::npos);
  write_file(dir / "out/esft/expert_cfg.json", R"({"experts": {"0": [1], "2": [3, 4]}})");
  CHECK(train_by(apply).err.find("model.layers.2.mlp.experts.4.") != std::string::npos);
  // Values that no weight can have: the last of the file, a NaN.
  write_file(dir / "out/esft/expert_cfg.json", R"({"experts": {"0": [1], "2": [3]}})");
  for (const auto& entry : fs::directory_iterator(dir / "out/esft")) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = read_file(entry.path());
    bytes.replace(bytes.size() - 4, 4, 4, '\xff');
    write_file(entry.path(), bytes);
  }
  const std::string of_nan = train_by(apply).err;
  CHECK_MESSAGE(of_nan.find("expected finite values, found") != std::string::npos, of_nan);
  CHECK_MESSAGE(of_nan.find(".safetensors: model.layers.2.mlp.experts.3.") != std::string::npos, of_nan);
  CHECK_FALSE(fs::exists(dir / "applied"));
}

TEST_CASE("experts: applied ones have a manifest, and must fit the dtype of the checkpoint") {
  const TemporaryDirectory dir;
  write_file(dir / "spec.json", R"({"family": "olmoe", "tokenizer": "bytes", "seed": 1, "dtype": "f16"})");
  const std::string model = (dir / "f16").string(), esft = (dir / "esft").string();
  const auto make = [&](const std::string& name) {
    REQUIRE(run_command(binary() + " make-model " + (dir / "spec.json").string() + " --out " + name).code == 0);
  };
  make(model);
  const Session session = loaders::open_session(model, {});
  const auto d = session.model.d_model, d_ff = session.model.layers[1].moe()->d_ff;
  const auto experts_of = [&](float value) {
    fs::create_directories(esft);
    write_file(dir / "esft/expert_cfg.json",
               R"({"experts": {"1": [2]}, "shared_experts": false, "non_expert_modules": false})");
    std::vector<safetensors::TensorHeader> headers;
    for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = std::string_view(part) == "down_proj";
      headers.push_back(
          {"model.layers.1.mlp.experts.2." + std::string(part) + ".weight", "F32", {down ? d : d_ff, down ? d_ff : d}});
    }
    safetensors::Writer writer(dir / "esft/experts.safetensors", headers);
    std::vector<float> values(static_cast<size_t>(d * d_ff), 0.5f);
    for (int i = 0; i < 3; ++i) {
      values[3] = i == 2 ? value : 0.5f;
      writer.write(values.data(), values.size() * sizeof(float));
    }
    writer.finish();
  };
  const std::string apply = "apply-experts " + model + " " + esft + " --out " + (dir / "out").string();
  // 65504 is the largest number of F16; what is above 65520 would become infinite.
  experts_of(65536);
  const Ran beyond = train_by(apply);
  CHECK(beyond.code == 1);
  CHECK_MESSAGE(
      beyond.err.find("tensor layer.1.expert.2.down: expected new values within the range of F16") != std::string::npos,
      beyond.err);
  CHECK_FALSE(fs::exists(dir / "out/config.json"));
  experts_of(65504);
  REQUIRE(train_by(apply).code == 0);  // what was refused left nothing in the way

  const json::Value manifest = json::parse_file(dir / "out/manifest.json");
  const json::Ref of(manifest, "manifest");
  CHECK(of.at("training").string() == "apply-experts");
  CHECK(of.at("status").string() == "complete");
  CHECK(of.at("hashes").at("model").string() == session.model_hash);
  CHECK(of.at("experts").members().size() == 2);
  const std::vector<float> down = values_of(dir / "out").at("layer.1.expert.2.down");
  CHECK(down[3] == 65504);
  CHECK(train_by(apply).err.find("was complete") != std::string::npos);
}

TEST_CASE("trainings: killed at any moment, they end with the same bytes") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", some_records(0, 6));
  write_file(dir / "stop.jsonl", some_records(6, 3));
  for (const std::string kind : {"full", "experts"}) {
    CAPTURE(kind);
    std::string line = "train " + kind + " " + golden_model("mixtral") + " --data " + (dir / "data.jsonl").string() +
                       " --stop " + (dir / "stop.jsonl").string() + " --steps 6 --lr 1e-3 --batch 3 --save-every 1 " +
                       "--balance switch:0.1 --router-anchor 0.5 --quiet";
    if (kind == "experts") line += " --select gate";
    std::vector<std::string> whole = words_of(line + " --out " + (dir / (kind + "-a")).string());
    const double seconds = seconds_of(whole);
    std::vector<std::string> parts = words_of(line + " --threads 2 --chunk 1 --out " + (dir / (kind + "-b")).string());
    run_with_kills(parts, seconds, 11);
    check_equal(dir / (kind + "-a"), dir / (kind + "-b"));
  }
}

TEST_CASE("trainings: what cannot be meant is refused before anything is read") {
  const TemporaryDirectory dir;
  write_file(dir / "data.jsonl", some_records(0, 3));
  write_file(dir / "same.jsonl", some_records(2, 2));
  const std::string common = golden_model("mixtral") + " --data " + (dir / "data.jsonl").string() +
                             " --steps 2 --quiet --out " + (dir / "out").string() + " ";
  const auto refused = [&](const std::string& kind, const std::string& words, int code, const std::string& text) {
    const Ran ran = train_by(kind + " " + common + words);
    CHECK(ran.code == code);
    CHECK_MESSAGE(ran.err.find(text) != std::string::npos, ran.err);
    CHECK_FALSE(fs::exists(dir / "out/manifest.json"));
  };
  refused("full", "--balance even:1", 2, "expected switch, transformers, sequence, device, communication or bias");
  refused("full", "--balance switch:0", 2, "expected KIND:COEF with a positive number");
  refused("full", "--balance switch:1,switch:2", 2, "found switch twice");
  refused("full", "--devices 2", 2, "expected --balance device or communication beside it");
  refused("full", "--balance device:1", 2, "--devices: expected a number beside");
  refused("full", "--balance communication:1 --devices 4", 2, "expected D:M beside --balance communication");
  refused("full", "--balance device:1 --devices 3", 2, "expected a number that divides the 8 experts");
  refused("full", "--balance bias:0.001", 2, "--balance bias: expected routers with a selection bias");
  refused("full", "--expert-anchor 1 --weights router", 2, "--expert-anchor: expected weights of experts that train");
  refused("full", "--stop-loss 1", 2, "expected --stop beside it");
  refused("full", "--stop " + (dir / "same.jsonl").string(), 2, "expected --save-every N beside it");
  refused("full", "--save-every 1 --stop " + (dir / "same.jsonl").string(), 1,
          "expected prompts to stop by that are none of those to learn by");
  refused("experts", "", 2, "expected one of them, found none");
  refused("experts", "--select gate --experts 0.1", 2, "expected one of them, found several");
  refused("experts", "--select best", 2, "expected gate, token, random:SEED or random:SEED:token, found \"best\"");
  refused("experts", "--select random:x", 2, "expected random:SEED with a whole number");
  refused("experts", "--p 0.1 --experts 0.1", 2, "expected --select beside it");
  refused("experts", "--p 0 --select gate", 2, "--p: expected a number above 0, found 0");
  refused("lora", "--alpha 0", 2, "--alpha: expected a number above 0, found 0");
  refused("experts", "--experts 0", 2, "expected LAYER:EXPERT or LAYER:FIRST-LAST with commas, found \"0\"");
  refused("experts", "--experts 0.8", 2, "expected experts 0 to 7 of layer 0, found 8");
  refused("experts", "--experts 0.1,0:1", 2, "found 0:1 twice");
}

// A template that prints the day: what was begun on one is gone on with on another.
TEST_CASE("trainings: the day that a template prints is that of the first process") {
  const TemporaryDirectory dir;
  write_file(dir / "spec.json", R"({"family": "mixtral", "tokenizer": "bytes", "seed": 3})");
  const std::string model = (dir / "m").string();
  REQUIRE(run_command(binary() + " make-model " + (dir / "spec.json").string() + " --out " + model).code == 0);
  write_file(dir / "m/chat_template.jinja",
             "{{ strftime_now('%Y-%m-%d') }}{% for one in messages %} {{ one.content }}{% endfor %}");
  std::string lines;
  for (int i = 0; i < 8; ++i)
    lines += R"({"id":")" + std::to_string(i) + R"(","messages":[{"role":"user","content":"a)" + std::to_string(i) +
             R"("}],"target":" b"})" + "\n";
  write_file(dir / "data.jsonl", lines);
  for (const char* words : {"full --steps 1", "lens --steps 1", "distill --keep 2 --steps 0 --random 0"}) {
    CAPTURE(words);
    const fs::path out = dir / ("out-" + std::string(words, 4));
    const std::string command = std::string(words) + " " + model + " --quiet --threads 1 --data " +
                                (dir / "data.jsonl").string() + " --out " + out.string();
    const Ran first = train_by(command);
    REQUIRE_MESSAGE(first.code == 0, first.err);
    std::string manifest = read_file(out / "manifest.json");
    const size_t at = manifest.find("\"date\": \"");
    REQUIRE(at != std::string::npos);
    manifest.replace(at + 9, 10, "2020-01-02");
    write_file(out / "manifest.json", manifest);
    const Ran again = train_by(command);
    CHECK_MESSAGE(again.code == 0, again.err);
  }
}

TEST_CASE("trainings: a random model of make-model learns by train full") {
  const TemporaryDirectory dir;
  write_file(dir / "spec.json", R"({"family": "qwen3_moe", "tokenizer": "bytes", "seed": 3})");
  REQUIRE(
      run_command(binary() + " make-model " + (dir / "spec.json").string() + " --out " + (dir / "m").string()).code ==
      0);
  std::string data;
  for (int i = 0; i < 8; ++i)
    data += "{\"id\":\"" + std::to_string(i) + "\",\"prompt\":\"" + std::string(1, static_cast<char>('a' + i)) +
            "=\",\"target\":\"" + std::string(1, static_cast<char>('A' + i)) + "\"}\n";
  write_file(dir / "data.jsonl", data);
  const Ran ran =
      train_by("full " + (dir / "m").string() + " --data " + (dir / "data.jsonl").string() +
               " --steps 60 --lr 2e-2 --warmup 5 --schedule cosine --balance switch:0.01 --json --quiet --out " +
               (dir / "out").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value said = json::parse(ran.out, "stdout");
  CHECK(said.find("first_loss")->real() > 2);
  CHECK(said.find("last_loss")->real() < 0.05);
}
