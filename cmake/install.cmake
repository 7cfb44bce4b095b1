# cmake --install build --prefix P:
#   bin/signalbox                  the built-in model is inside it
#   share/signalbox/builtin        record sets of the built-in model, and its card
#   share/doc/signalbox            README.md, LICENSE, NOTICE, documents and examples
# A wheel (pyproject.toml) has the first two inside the Python package, and a script that starts the binary there.
include(GNUInstallDirs)
install(TARGETS signalbox RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
if(cuda)   # cuBLAS is opened at run time; what lies in the source tree is not the installed binary's to use
  set(installed_library_folders ${cuda_library_folders})
  list(FILTER installed_library_folders EXCLUDE REGEX "^${CMAKE_SOURCE_DIR}/")
  if(SKBUILD)   # where pip puts cuBLAS: site-packages/nvidia
    string(REGEX MATCH "^[0-9]+" major "${nvcc_version}")
    list(PREPEND installed_library_folders "$ORIGIN/../../nvidia/cu${major}/lib" "$ORIGIN/../../nvidia/cublas/lib")
  endif()
  set_target_properties(signalbox PROPERTIES INSTALL_RPATH "${installed_library_folders}")
endif()
install(DIRECTORY tools/builtin/heldout DESTINATION ${CMAKE_INSTALL_DATADIR}/signalbox/builtin COMPONENT program)
install(FILES tools/builtin/CARD.md DESTINATION ${CMAKE_INSTALL_DATADIR}/signalbox/builtin COMPONENT program)
if(SKBUILD)
  option(SIGNALBOX_OLDER_SYSTEMS "Wheels for glibc 2.34 and on; needs Debian 12's libraries on x86-64 (tools/wheel)" OFF)
  if(SIGNALBOX_OLDER_SYSTEMS)
    target_sources(signalbox PRIVATE tools/python/older_systems.cpp)
    target_link_options(signalbox PRIVATE -Wl,--wrap=hypot
                        -Wl,--wrap=_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE)
  endif()
  install(PROGRAMS tools/python/launcher.py DESTINATION ${SKBUILD_SCRIPTS_DIR} RENAME signalbox COMPONENT program)
endif()
install(FILES README.md LICENSE NOTICE CONTRIBUTING.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT documents)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs COMPONENT documents)
install(DIRECTORY examples/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples USE_SOURCE_PERMISSIONS COMPONENT documents)
