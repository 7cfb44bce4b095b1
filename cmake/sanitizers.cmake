# The flags of the builds with sanitizers (the presets asan and tsan), on signalbox_flags. Sets light_options: what is not
# arithmetic is compiled without optimisation there, in half of the time.
set(light_options "")
if(SIGNALBOX_SANITIZE)
  set(sanitize -fsanitize=${SIGNALBOX_SANITIZE} -fno-omit-frame-pointer -g1)
  if(SIGNALBOX_SANITIZE MATCHES undefined)
    list(APPEND sanitize -fno-sanitize-recover=all)
  endif()
  if(SIGNALBOX_FUZZ)
    list(APPEND sanitize -fsanitize=fuzzer-no-link)
  endif()
  target_compile_options(signalbox_flags INTERFACE "$<${by_host}:${sanitize}>")
  target_link_options(signalbox_flags INTERFACE -fsanitize=${SIGNALBOX_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    target_link_options(signalbox_flags INTERFACE -fuse-ld=lld)   # a dozen large binaries
  endif()
  set(light_options -O0)
  # Templates nest as deep as their text, and frames are large without optimisation.
  file(GLOB deep_sources CONFIGURE_DEPENDS loaders/template/*.cpp)
  set_source_files_properties(${deep_sources} PROPERTIES COMPILE_OPTIONS -O1 SKIP_PRECOMPILE_HEADERS ON)
endif()
