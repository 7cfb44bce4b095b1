// A namespace for each folder: signalbox::probes for probes/, and so on; base/ is signalbox itself. Each sees the names
// of the folders below it (tests/layout_test.cpp), so that code names what it uses as if there were one.
#pragma once

namespace signalbox {

namespace kernels {}
namespace probes {
using namespace kernels;
}
namespace engine {
using namespace probes;
}
namespace loaders {
using namespace engine;
}
namespace eval {
using namespace engine;
}
namespace tools {
using namespace loaders;
using namespace eval;
}  // namespace tools
namespace test {
using namespace tools;
}

}  // namespace signalbox
