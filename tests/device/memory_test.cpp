// Memory of a device and of the host beside it: who keeps what alive, and what is put together for one upload.
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "engine/host_image.h"
#include "tests/device/device.h"
#include "tests/support.h"

namespace {

using namespace signalbox::engine;
namespace test = signalbox::test;

// The shim ends the process where somebody waits for a stream that has been destroyed.
TEST_CASE("device: a buffer in host memory outlives its backend") {
  const auto check = [](std::unique_ptr<Backend> backend) {
    const auto device = backend->allocate(64);
    auto host = backend->allocate_host(64);
    backend->fill(device.get(), 7, 64);
    backend->wait(backend->download_later(host.get(), device.get(), 64));
    backend.reset();
    CHECK(std::string(static_cast<char*>(host.get()), 64) == std::string(64, 7));
    host.reset();
  };
  check(test::one_device());
  if (!test::gpu_only() && test::have_gpu()) check(make_cuda_backend({}));
}

TEST_CASE("host image: an array is kept once, by its address and its length") {
  const int32_t list[] = {1, 2, 3, 4, 5};
  const double other = 2.5;
  HostImage image;
  const size_t three = image.add(list, 3), again = image.add(list, 3), five = image.add(list, 5);
  const size_t number = image.add(&other, 1);
  CHECK(three == 0);
  CHECK(again == three);
  CHECK(five == 16);
  CHECK(number == 48);
  REQUIRE(image.bytes().size() == 56);
  CHECK(std::memcmp(image.at<int32_t>(five), list, sizeof list) == 0);
  CHECK(*image.at<double>(number) == other);
}

}  // namespace
