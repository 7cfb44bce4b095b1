# Tests (docs/testing.md). Nothing here is built unless asked for by name:
#   signalbox_tests   all test cases that need no other build
#   signalbox_cases   most of them as a library, for SIGNALBOX_TEST_CASES of another build
#   selected_tests    those of the files in SIGNALBOX_SELECTED_TESTS (tools/test --only)
#   gpu_tests         those of kernels/cuda alone, for a machine with a GPU (tools/gpu-check, tools/gpu-pack)
#   gpu_kit           instructions and small times of a GPU (cmake/gpu_kit.cmake)
#   race_tests        the CUDA kernels on the host, every access watched
#   thread_tests      what uses several threads, for the thread sanitizer
#   *_driver          programs that tests in Python drive
#   fuzz_targets      the fuzzers, with SIGNALBOX_FUZZ
set(SIGNALBOX_SELECTED_TESTS "" CACHE STRING "Test files of the target selected_tests")
# Sanitizers look for faults of the product. The cases themselves need not be compiled for them a second time: those of a
# build without sanitizers are linked to the product of one with them, where every access to the product's memory that
# the product makes is watched as before.
set(SIGNALBOX_TEST_CASES "" CACHE FILEPATH "libsignalbox_cases.a of another build; empty: compile the cases here")

file(GLOB_RECURSE test_sources CONFIGURE_DEPENDS tests/*_test.cpp)
file(GLOB_RECURSE support_sources CONFIGURE_DEPENDS tests/*.cpp)
list(FILTER support_sources EXCLUDE REGEX "/fuzz/|_driver\\.cpp$|_test\\.cpp$")
# Tests of kernels compute much themselves, and are worth optimising; the others are worth compiling fast.
file(GLOB kernel_test_sources CONFIGURE_DEPENDS tests/ops/*_test.cpp tests/device/shim_*_test.cpp tests/device/shim_test.cpp)
file(GLOB device_test_sources CONFIGURE_DEPENDS tests/device/*_test.cpp)
list(REMOVE_ITEM device_test_sources ${kernel_test_sources})
list(REMOVE_ITEM test_sources ${kernel_test_sources} ${device_test_sources})

# Where the checkout and the binary are is compiled into one file only: the others are the same in every checkout.
set_source_files_properties(tests/support.cpp PROPERTIES SKIP_PRECOMPILE_HEADERS ON COMPILE_DEFINITIONS
  "SIGNALBOX_SOURCE_DIR=\"${CMAKE_SOURCE_DIR}\";SIGNALBOX_BINARY=\"$<TARGET_FILE:signalbox>\"")
set_source_files_properties(tests/main.cpp PROPERTIES SKIP_PRECOMPILE_HEADERS ON)   # it has the rest of doctest

# A library of test objects: signalbox_NAME.
function(add_test_objects name)
  add_library(signalbox_${name} OBJECT EXCLUDE_FROM_ALL ${ARGN})
  target_link_libraries(signalbox_${name} PUBLIC signalbox_tools)
  target_compile_options(signalbox_${name} PRIVATE ${light_options})
  target_precompile_headers(signalbox_${name} PRIVATE ${standard_headers} <doctest/doctest.h>)
endfunction()
add_test_objects(test_support ${support_sources})
add_test_objects(kernel_tests ${kernel_test_sources})
add_test_objects(device_tests ${device_test_sources})

function(add_test_binary name)
  add_executable(${name} EXCLUDE_FROM_ALL ${ARGN})
  target_compile_options(${name} PRIVATE -O0)
  target_precompile_headers(${name} PRIVATE ${standard_headers} <doctest/doctest.h>)
  target_link_libraries(${name} PRIVATE signalbox_test_support ${product} signalbox_shim_runtime signalbox_shim)
  if(cuda)
    set_target_properties(${name} PROPERTIES BUILD_RPATH "${cuda_library_folders}")
  endif()
endfunction()
add_test_binary(signalbox_tests)
if(SIGNALBOX_TEST_CASES)
  add_library(signalbox_cases STATIC IMPORTED)
  set_target_properties(signalbox_cases PROPERTIES IMPORTED_LOCATION ${SIGNALBOX_TEST_CASES})
else()
  add_library(signalbox_cases STATIC EXCLUDE_FROM_ALL ${test_sources})
  target_link_libraries(signalbox_cases PRIVATE signalbox_flags)
  target_compile_options(signalbox_cases PRIVATE -O0)
  target_precompile_headers(signalbox_cases PRIVATE ${standard_headers} <doctest/doctest.h>)
  compile_together(signalbox_cases)
endif()
target_link_libraries(signalbox_tests PRIVATE signalbox_kernel_tests signalbox_device_tests
                      "$<LINK_LIBRARY:WHOLE_ARCHIVE,signalbox_cases>")
add_test_binary(gpu_tests)
target_link_libraries(gpu_tests PRIVATE signalbox_device_tests)
if(SIGNALBOX_SELECTED_TESTS)
  add_test_binary(selected_tests ${SIGNALBOX_SELECTED_TESTS})
endif()

# The shim itself is not instrumented and comes first, so that the linker takes its copies of what both have.
if(TARGET signalbox_shim_races)
  add_executable(race_tests EXCLUDE_FROM_ALL $<TARGET_OBJECTS:signalbox_shim_runtime>)
  target_link_libraries(race_tests PRIVATE signalbox_test_support signalbox_device_tests ${product} signalbox_shim_races)
endif()

file(GLOB thread_sources CONFIGURE_DEPENDS tests/ops/thread_*.cpp)
add_executable(thread_tests EXCLUDE_FROM_ALL ${thread_sources})
target_compile_definitions(thread_tests PRIVATE DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN)
target_link_libraries(thread_tests PRIVATE signalbox_kernels signalbox_base)

file(GLOB driver_sources CONFIGURE_DEPENDS tests/*/*_driver.cpp)
foreach(source ${driver_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} EXCLUDE_FROM_ALL ${source})
  target_link_libraries(${name} PRIVATE signalbox_eval signalbox_engine signalbox_template signalbox_kernels signalbox_base)
endforeach()

if(SIGNALBOX_FUZZ)
  file(GLOB fuzz_sources CONFIGURE_DEPENDS tests/fuzz/fuzz_*.cpp)
  add_custom_target(fuzz_targets)
  foreach(source ${fuzz_sources})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} EXCLUDE_FROM_ALL ${source})
    target_link_libraries(${name} PRIVATE ${product})
    target_compile_options(${name} PRIVATE ${fuzz_options})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer,${SIGNALBOX_SANITIZE})
    add_dependencies(fuzz_targets ${name})
  endforeach()
endif()
