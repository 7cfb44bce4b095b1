// Weights copied into memory at load: every value stays, whatever its dtype and layout; and when they are not copied.
#include <doctest/doctest.h>

#include <cstring>

#include "base/error.h"
#include "base/memory.h"
#include "engine/device_weights.h"
#include "engine/matrix_values.h"
#include "engine/resident_weights.h"
#include "loaders/model/load.h"
#include "loaders/open.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::loaders;
using test::golden_model;

// Values of all tensors in their order.
std::vector<float> values_of(const Model& model, Weights weights) {
  std::vector<float> all;
  for_each_tensor(model, weights, [&](const TensorPlace& place) {
    const size_t at = all.size();
    if (place.vector) {
      all.insert(all.end(), place.vector->data, place.vector->data + place.vector->n);
    } else {
      all.resize(at + static_cast<size_t>(place.rows * place.cols));
      read_matrix(all.data() + at, *place.matrix);
    }
  });
  return all;
}

ResidentOptions from_files(const LoadedModel& loaded, LoadPolicy policy) {
  ResidentOptions options;
  options.policy = policy;
  options.threads = 3;
  options.mapped = loaded.mapped;
  return options;
}

bool in_files(const LoadedModel& loaded, const void* data) {
  const auto* byte = static_cast<const std::byte*>(data);
  for (const auto& file : loaded.mapped)
    if (byte >= file.data() && byte < file.data() + file.size()) return true;
  return false;
}

}  // namespace

TEST_CASE("resident: a copy holds every value, and needs the files no more") {
  // Experts in blocks of mxfp4 whose rows take turns; a file of each expert; embeddings that are tied.
  for (const char* name : {"gpt_oss_mxfp4", "deepseek_v2_lite", "mixtral_bf16", "olmoe"}) {
    CAPTURE(std::string(name));
    LoadedModel loaded = load_model(golden_model(name));
    REQUIRE(!loaded.mapped.empty());
    CHECK(in_files(loaded, loaded.weights.embed.data));
    const std::vector<float> want = values_of(loaded.model, loaded.weights);
    const int64_t bytes = host_weight_bytes(loaded.model, loaded.weights);
    ResidentOptions options = from_files(loaded, LoadPolicy::copy);
    int64_t done = 0, total = 0;
    options.on_progress = [&](int64_t now, int64_t of) { done = now, total = of; };
    std::vector<std::weak_ptr<const void>> before;
    for (const auto& owner : loaded.weights.owners) before.push_back(owner);
    const WeightMemory memory = make_resident(loaded.model, loaded.weights, options);
    CHECK(memory.kind == WeightMemory::Kind::copied);
    CHECK(memory.bytes >= bytes);
    CHECK(done >= bytes);
    CHECK(done <= total);
    CHECK(total == memory.bytes);
    for (const auto& owner : before) CHECK(owner.expired());
    CHECK(loaded.weights.owners.size() == 1);
    int64_t wrong = 0;
    for_each_tensor(loaded.model, loaded.weights, [&](const TensorPlace& place) {
      const void* data = place.vector ? place.vector->data : place.matrix->data;
      wrong += reinterpret_cast<uintptr_t>(data) % 64 != 0;
      if (place.matrix) wrong += place.matrix->row_stride != place.cols;
    });
    CHECK(wrong == 0);
    if (loaded.model.tied_embeddings) CHECK(loaded.weights.lm_head.data == loaded.weights.embed.data);
    const std::vector<float> got = values_of(loaded.model, loaded.weights);
    REQUIRE(got.size() == want.size());
    CHECK(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("resident: small models stay, large ones are copied where memory allows, else mapped with a warning") {
  const auto kind = [](LoadPolicy policy, int64_t least, int64_t available, std::string* warning) {
    LoadedModel loaded = load_model(golden_model("mixtral"));
    const void* before = loaded.weights.embed.data;
    ResidentOptions options = from_files(loaded, policy);
    options.least_bytes = least;
    options.available = available;
    const WeightMemory memory = make_resident(loaded.model, loaded.weights, options);
    CHECK((loaded.weights.embed.data == before) ==
          (memory.kind != WeightMemory::Kind::copied || policy == LoadPolicy::none));
    if (warning) *warning = memory.warning;
    return memory.kind;
  };
  using Kind = WeightMemory::Kind;
  const LoadedModel loaded = load_model(golden_model("mixtral"));
  const int64_t bytes = host_weight_bytes(loaded.model, loaded.weights), plenty = 1 << 30;
  std::string warning;
  CHECK(kind(LoadPolicy::automatic, int64_t{128} << 20, plenty, &warning) == Kind::small);
  CHECK(warning.empty());
  CHECK(kind(LoadPolicy::automatic, 1, plenty, &warning) == Kind::copied);
  CHECK(kind(LoadPolicy::none, 1, plenty, &warning) == Kind::copied);
  CHECK(kind(LoadPolicy::map, 1, plenty, &warning) == Kind::mapped);
  CHECK(warning.empty());
  CHECK(kind(LoadPolicy::automatic, 1, bytes, &warning) == Kind::mapped);  // not a tenth more
  CHECK(warning.find("for the memory is short: expected ") != std::string::npos);
  CHECK(warning.find("storage") == std::string::npos);
  CHECK(kind(LoadPolicy::automatic, 1, bytes / 2, &warning) == Kind::mapped);
  CHECK(warning.find("% of it from storage") != std::string::npos);
  CHECK_THROWS_WITH_AS(kind(LoadPolicy::copy, 1, bytes / 2, nullptr),
                       doctest::Contains("--load copy: expected 0.00 GB of available memory for the weights"), Error);
}

TEST_CASE("resident: a session says where its weights lie, and computes the same") {
  const auto logits = [](LoadPolicy policy) {
    OpenOptions options;
    options.device = *parse_device("cpu");
    options.threads = 2;
    options.load = policy;
    const Session session = open_session(golden_model("deepseek_v2_lite"), options);
    CHECK(session.weight_memory.kind == (policy == LoadPolicy::copy  ? WeightMemory::Kind::copied
                                         : policy == LoadPolicy::map ? WeightMemory::Kind::mapped
                                                                     : WeightMemory::Kind::small));
    Job job;
    job.prompt = std::make_shared<Prompt>("a", std::vector<int32_t>{1, 5, 9, 2, 7});
    job.task = Score{};
    std::vector<double> found;
    RunEvents events;
    events.on_done = [&](Result done) { found = done.logprobs; };
    session.run({job}, session.options, events, nullptr);
    return found;
  };
  const auto mapped = logits(LoadPolicy::map);
  CHECK(mapped.size() >= 4);
  CHECK(logits(LoadPolicy::copy) == mapped);
  CHECK(logits(LoadPolicy::automatic) == mapped);
}

TEST_CASE("memory: large pages are aligned, zeroed and counted") {
  HugeMemory memory(3 * HugeMemory::page + 17);
  CHECK(reinterpret_cast<uintptr_t>(memory.data()) % HugeMemory::page == 0);
  CHECK(memory.bytes() == 3 * HugeMemory::page + 17);
  CHECK(memory.data()[memory.bytes() - 1] == std::byte{0});
  std::memset(memory.data(), 1, memory.bytes());
  CHECK(memory.huge_bytes() >= 0);
  CHECK(memory.huge_bytes() <= static_cast<int64_t>(memory.bytes()));
  CHECK(available_memory() > 0);
}
