# SIGNALBOX_UNITY compiles up to sixteen files of a folder as one: headers are read and templates made once for all of them,
# which takes a third to a half off a build from nothing and makes the build after a small change slower. tools/build and
# tools/test ask for it when they make a build folder (docs/testing.md).
#
# So files of one folder do not give a name of an anonymous namespace two meanings; those that have good reason to are
# compiled for themselves everywhere: inner loops, the tables of the families, tests of one op each.
option(SIGNALBOX_UNITY "Compile several files of a folder as one" OFF)
set(unity_size 16)
set(unity_not "/(eval/detect|loaders/families|tests/(data|detect|device|forward|ops|regimes|statistics))/")

function(compile_together target)
  if(NOT SIGNALBOX_UNITY)
    return()
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  # GCC takes a file that is included for a header, whose anonymous namespaces would be many.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "${unity_not}")
  set(folder "")
  foreach(source ${sources})
    get_filename_component(path ${source} DIRECTORY)
    if(NOT path STREQUAL folder)
      set(folder ${path})
      set(count 0)
    endif()
    math(EXPR part "${count} / ${unity_size}")
    math(EXPR count "${count} + 1")
    file(RELATIVE_PATH group ${CMAKE_SOURCE_DIR} ${folder})
    string(REPLACE "/" "_" group "${group}_${part}")
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${group})
  endforeach()
endfunction()
