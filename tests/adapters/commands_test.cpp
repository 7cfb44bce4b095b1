// --adapter by the command line: a command with it does what it does with a checkpoint that has the adapter in it.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/half.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "tests/support.h"
#include "tests/train/tiny_training.h"

namespace {

using namespace signalbox;
using namespace signalbox::test;
namespace fs = std::filesystem;

Ran run(const std::string& words) { return run_command(binary() + " " + words + " < /dev/null"); }

Ran done(const std::string& words) {
  const Ran ran = run(words);
  CAPTURE(words);
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  return ran;
}

std::string adapter(const std::string& name) { return (source_dir() / "tests/adapters" / name).string(); }

void write_records(const fs::path& file, int64_t first, int64_t n) {
  std::string text;
  for (int64_t i = first; i < first + n; ++i) {
    json::Value tokens = json::Value::array();
    for (const int32_t token : record_tokens(i)) tokens.push_back(int64_t{token});
    text +=
        json::dump(json::Value::object().set("id", "r" + std::to_string(i)).set("tokens", std::move(tokens))) + "\n";
  }
  write_file(file, text);
}

// A checkpoint of MODEL with the adapter in it: a training that changes nothing.
std::string merged(const fs::path& dir, const std::string& model, const std::string& of) {
  const std::string out = (dir / "merged").string();
  done("train full " + model + " --adapter " + of + " --data " + (dir / "few.jsonl").string() +
       " --weights final_norm --steps 1 --lr 0 --quiet --out " + out);
  return out + "/model";
}

void same_file(const fs::path& a, const fs::path& b) {
  CAPTURE(a);
  REQUIRE(fs::exists(a));
  CHECK(read_file(a) == read_file(b));
}

json::Value score(const std::string& words) {
  return json::parse(done("score " + words + " --json --quiet").out, "score");
}

double largest_difference(const json::Value& a, const json::Value& b) {
  const auto &x = a.find("logprobs")->items(), &y = b.find("logprobs")->items();
  REQUIRE(x.size() == y.size());
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x[i].real() - y[i].real()));
  return most;
}

}  // namespace

TEST_CASE("adapters: bench, compress, train rationale, lens, experts and distill do as with a merged checkpoint") {
  const TemporaryDirectory dir;
  write_records(dir / "few.jsonl", 0, 2);
  write_records(dir / "data.jsonl", 0, 8);
  write_records(dir / "one.jsonl", 5, 1);
  const std::string model = golden_model("mixtral"), of = adapter("mixtral"), data = (dir / "data.jsonl").string(),
                    with = model + " --adapter " + of, one = merged(dir.path(), model, of);
  const auto at = [&](const std::string& name) { return (dir / name).string(); };

  const std::string input = " --input " + at("one.jsonl");
  const json::Value plain = score(model + input), applied = score(with + input);
  CHECK(json::dump(score(one + input)) == json::dump(applied));
  CHECK(largest_difference(plain, applied) > 0.1);
  CHECK(largest_difference(score(with + " --adapter-unmerged" + input), applied) < 1e-5);

  const auto compress = [&](const std::string& of_model, const std::string& name) {
    done("compress " + of_model + " --data " + data + " --keep 4 --random 1 --quiet --out " + at(name) + " --write " +
         at(name + "-model"));
  };
  compress(with, "c1");
  compress(one, "c2");
  compress(model, "c3");
  for (const char* file : {"experts.csv", "pairs.csv"}) {
    same_file(dir / "c1" / file, dir / "c2" / file);
    CHECK(read_file(dir / "c1" / file) != read_file(dir / "c3" / file));
  }
  // The files that the original lies in differ in size.
  const auto plans = [&](const std::string& name, const char* first) {
    const std::string text = read_file(dir / name / "quality.csv");
    REQUIRE(text.find(first) != std::string::npos);
    return text.substr(text.find(first));
  };
  CHECK(plans("c1", "\nplan,4,") == plans("c2", "\nplan,4,"));
  CHECK(plans("c1", "\nplan,4,") != plans("c3", "\nplan,4,"));
  CHECK(values_of(dir / "c1-model") == values_of(dir / "c2-model"));
  const json::Value summary = json::parse_file(dir / "c1/summary.json");
  REQUIRE(summary.find("adapters"));
  CHECK(summary.find("adapters")->items()[0].find("sha256")->string().size() == 64);

  const auto lens = [&](const std::string& of_model, const std::string& name) {
    done("train lens " + of_model + " --data " + data + " --eval " + at("one.jsonl") +
         " --steps 2 --batch 2 --quiet --out " + at(name));
  };
  lens(with, "l1");
  lens(one, "l2");
  for (const char* file : {"log.csv", "layers.csv"}) same_file(dir / "l1" / file, dir / "l2" / file);
  // The lens is one of the model with the adapter: of no other.
  const std::string tuned = input + " --quiet --tuned " + at("l1/lens.safetensors") + " --out ";
  done("lens " + with + tuned + at("read"));
  CHECK(run("lens " + model + tuned + at("read2")).err.find("expected a tuned lens of the weights of") !=
        std::string::npos);

  const auto rationale = [&](const std::string& encoder, const std::string& name) {
    done("train rationale --encoder " + encoder + " --data " + data +
         " --factors 2 --epochs 1 --resamples 10 --permutations 2 --quiet --out " + at(name));
  };
  rationale(model + ":layer.1.resid_mid --adapter " + of, "r1");
  rationale(one + ":layer.1.resid_mid", "r2");
  rationale(model + ":layer.1.resid_mid", "r3");
  for (const char* file : {"metrics.csv", "factors.safetensors"}) {
    same_file(dir / "r1" / file, dir / "r2" / file);
    CHECK(read_file(dir / "r1" / file) != read_file(dir / "r3" / file));
  }

  const auto train = [&](const std::string& words, const std::string& name) {
    done("train " + words + " --data " + data + " --quiet --out " + at(name));
    return values_of(dir / name);
  };
  const std::string experts = " --experts 1:0-1 --steps 2 --lr 1e-3 --batch 2",
                    distill = " --keep 2 --steps 1 --batch 2 --random 0";
  CHECK(train("experts " + with + experts, "e1") == train("experts " + one + experts, "e2"));
  CHECK_FALSE(fs::exists(dir / "e1/esft"));
  CHECK(train("distill " + with + distill, "d1") == train("distill " + one + distill, "d2"));
  CHECK(plans("d1", "\nstudent,") == plans("d2", "\nstudent,"));

  const std::string few = " --quick --json --quiet --threads 1 --prompt-tokens 8 --new-tokens 2 --batch 1";
  const std::vector<std::string> lines = lines_of(done("bench " + with + few).out);
  const json::Value all = json::parse(lines.back(), "bench");
  REQUIRE(all.find("adapters"));
  CHECK(all.find("adapters")->items()[0].find("path")->string() == of);
  CHECK(all.find("decode")->items().size() == 1);
  const Ran shape = run("bench --kernels --adapter " + of);
  CHECK(shape.code == 2);
  CHECK(shape.err.find("--adapter: expected a model beside it") != std::string::npos);
}

TEST_CASE("adapters: in a checkpoint they are rounded as it stores, and where that cannot be it is said") {
  const TemporaryDirectory dir;
  write_records(dir / "few.jsonl", 0, 2);
  // Of F32: the sum itself. Of BF16: rounded once, and what is not adapted stays bit by bit.
  const std::string bf16 = golden_model("mixtral_bf16"), of = adapter("mixtral_018"),
                    out = merged(dir.path(), bf16, of);
  const WeightValues before = values_of(bf16), after = values_of(out);
  int64_t changed = 0;
  for (const auto& [name, values] : after) {
    changed += values != before.at(name);
    for (const float value : values) CHECK(kept_by(DType::bf16, value) == value);
  }
  CHECK(changed > 20);
  CHECK(changed < static_cast<int64_t>(after.size()));
  // A head that is the table too, with an adapter of its own.
  const std::string tied = golden_model("qwen2_moe_step_bf16"), head = (dir / "head").string();
  fs::create_directories(head);
  write_file(dir / "head/adapter_config.json",
             R"({"peft_type":"LORA","r":1,"lora_alpha":1,"target_modules":["lm_head"]})");
  const WeightValues of_tied = values_of(tied);
  const json::Value config = json::parse_file(fs::path(tied) / "config.json");
  const int64_t d = config.find("hidden_size")->integer(), v = config.find("vocab_size")->integer();
  const std::vector<safetensors::TensorHeader> pair = {{"base_model.model.lm_head.lora_A.weight", "F32", {1, d}},
                                                       {"base_model.model.lm_head.lora_B.weight", "F32", {v, 1}}};
  safetensors::Writer writer(dir / "head/adapter_model.safetensors", pair);
  const std::vector<float> ones(static_cast<size_t>(d + v), 0.125f);
  writer.write(ones.data(), static_cast<size_t>(d) * sizeof(float));
  writer.write(ones.data(), static_cast<size_t>(v) * sizeof(float));
  writer.finish();
  done("score " + tied + " --adapter " + head + " --quiet --input " + (dir / "few.jsonl").string());
  const Ran refused = run("train full " + tied + " --adapter " + head + " --data " + (dir / "few.jsonl").string() +
                          " --steps 1 --quiet --out " + (dir / "out").string());
  CHECK(refused.code == 2);
  CHECK_MESSAGE(refused.err.find("--adapter: expected an adapter of both or neither of ") != std::string::npos,
                refused.err);
  // Commands in which it could mean nothing say why.
  for (const char* words :
       {"train lora builtin", "train router builtin", "train apply-experts builtin x", "upcycle x"}) {
    const Ran ran = run(std::string(words) + " --adapter " + of);
    CHECK(ran.code == 2);
    CHECK_MESSAGE(ran.err.starts_with("signalbox: error: --adapter: expected "), ran.err);
  }
}

TEST_CASE("adapters: one that was trained here tells when it is put on other weights") {
  const TemporaryDirectory dir;
  write_records(dir / "few.jsonl", 0, 2);
  const std::string few = (dir / "few.jsonl").string(), model = golden_model("mixtral"), out = (dir / "lora").string();
  done("train lora " + model + " --data " + few + " --steps 1 --rank 1 --targets attention --quiet --out " + out);
  CHECK(run("score " + model + " --input " + few + " --adapter " + out).err.find("made for") == std::string::npos);
  // A sibling: the same configuration and shapes, one value is another.
  fs::create_directories(dir / "sibling");
  for (const auto& entry : fs::directory_iterator(model)) {
    std::string bytes = read_file(entry.path());
    if (entry.path().extension() == ".safetensors") bytes.back() ^= 1;
    write_file(dir / "sibling" / entry.path().filename().string(), bytes);
  }
  const std::string sibling = (dir / "sibling").string();
  const Ran on_it = run("score " + sibling + " --input " + few + " --adapter " + out);
  CHECK(on_it.code == 0);
  CHECK_MESSAGE(on_it.err.find(out + ": made for other weights than those of " + sibling) != std::string::npos,
                on_it.err);
  CHECK(run("score " + sibling + " --quiet --input " + few + " --adapter " + out).err.empty());
}

TEST_CASE("adapters: a spec names them, and a run with another one is another run") {
  const TemporaryDirectory dir;
  write_records(dir / "few.jsonl", 0, 2);
  std::string records;
  for (int i = 0; i < 4; ++i) {
    json::Value tokens = json::Value::array();
    for (const int32_t token : record_tokens(i)) tokens.push_back(int64_t{token});
    records += json::dump(json::Value::object().set("id", "r" + std::to_string(i)).set("tokens", tokens)) + "\n";
  }
  write_file(dir / "records.jsonl", records);
  const std::string model = golden_model("mixtral");
  fs::create_directories(dir / "own");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    fs::copy_file(fs::path(adapter("mixtral")) / file, dir / "own" / file);
  const auto spec = [&](const std::string& name, const std::string& of_model, const std::string& more) {
    write_file(dir / name,
               R"({"model":")" + of_model + R"(","data":"records.jsonl")" + more +
                   R"(,"interventions":[{"name":"baseline"},{"name":"off","edits":[{"op":"deactivate","mode":"ban",
"experts":{"1":[2]}}]}],"controls":false,"metrics":["ppl"],"resamples":50})");
    return (dir / name).string();
  };
  const std::string with = spec("with.json", model, R"(,"adapter":"own")"),
                    as_list = spec("list.json", model, R"(,"adapter":["own"])"),
                    whole = spec("whole.json", merged(dir.path(), model, adapter("mixtral")), ""),
                    plain = spec("plain.json", model, "");
  const auto at = [&](const std::string& name) { return (dir / name).string(); };
  const auto run_spec = [&](const std::string& file, const std::string& name) {
    done("run " + file + " --quiet --out " + at(name));
    return read_file(dir / name / "samples.jsonl");
  };
  const std::string samples = run_spec(with, "a");
  CHECK(samples == run_spec(whole, "b"));
  CHECK(samples != run_spec(plain, "c"));
  const json::Value manifest = json::parse_file(dir / "a/manifest.json");
  const std::string hash = manifest.find("hashes")->find("weights")->find("adapter 1")->string();
  CHECK(hash.size() == 64);
  CHECK(json::dump(*manifest.find("spec")->find("adapter")) == R"(["own"])");
  CHECK(manifest.find("adapters")->items()[0].find("sha256")->string() == hash);
  // The same in other words, and shards of it put together.
  CHECK(run("run " + as_list + " --out " + at("a")).err.find("was complete") != std::string::npos);
  for (const char* shard : {"0/2", "1/2"})
    done("run " + with + " --quiet --shard " + shard + " --out " + at(std::string("s") + shard[0]));
  done("merge " + at("m") + " " + at("s0") + " " + at("s1"));
  CHECK(read_file(dir / "m/samples.jsonl") == samples);
  same_file(dir / "m/metrics.json", dir / "a/metrics.json");
  const json::Value together = json::parse_file(dir / "m/manifest.json");
  CHECK(together.find("hashes")->find("weights")->find("adapter 1")->string() == hash);
  // Another adapter in its place, and none.
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    fs::copy_file(fs::path(adapter("mixtral_018")) / file, dir / "own" / file, fs::copy_options::overwrite_existing);
  const Ran other = run("run " + with + " --quiet --out " + at("a"));
  CHECK(other.code == 1);
  CHECK_MESSAGE(other.err.find("weights.adapter 1: was ") != std::string::npos, other.err);
  CHECK(run("run " + plain + " --quiet --out " + at("a")).err.find("spec.adapter: was ") != std::string::npos);
  const Ran twice = run("run " + with + " --adapter " + at("own") + " --quiet --out " + at("x"));
  CHECK(twice.code == 2);
  CHECK(twice.err.find("--adapter: expected none beside the spec's \"adapter\"") != std::string::npos);
  CHECK(run("run " + spec("bad.json", model, R"(,"adapter":3)") + " --out " + at("x")).err.find("adapter: ") !=
        std::string::npos);
  // The shortcuts put it into their spec.
  const std::string printed = done("misroute " + model + " --data " + at("records.jsonl") +
                                   " --max-tokens 0 --policies worst --spec --adapter " + at("own"))
                                  .out;
  CHECK(json::parse(printed, "spec").find("adapter")->items()[0].string() == at("own"));
}
