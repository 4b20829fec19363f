# The parts of a binary as CycloneDX 1.5, of what `cargo metadata` says: the package `$root` and all that it is linked
# with, without what is for tests and builds only.
#   cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu \
#     | jq --arg root outrider-proxy -f deploy/sbom.jq > outrider-proxy.cdx.json

def reference: if .source then "pkg:cargo/\(.name)@\(.version)" else "pkg:generic/\(.name)@\(.version)" end;

(.packages | INDEX(.id)) as $packages
| (.resolve.nodes | INDEX(.id)) as $nodes
| def linked: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg];
  def closure($seen; $next):
    if ($next | length) == 0 then $seen
    else ($seen + ($next | map({(.): true}) | add)) as $seen
      | closure($seen; [$next[] | $nodes[.] | linked[]] | unique | map(select($seen[.] | not)))
    end;
  (.packages[] | select(.name == $root and .source == null)) as $top
| closure({}; [$top.id]) as $all
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {component: {type: "application", "bom-ref": ($top | reference), name: $top.name, version: $top.version, purl: ($top | reference)}},
    components: [
      $packages[$all | keys[] | select(. != $top.id)]
      | {type: "library", "bom-ref": reference, name, version, purl: reference}
        + (if .license then {licenses: [{expression: (.license | gsub("/"; " OR "))}]} else {} end)
    ] | sort_by(.purl),
    dependencies: [
      $all | keys[] as $id
      | {ref: ($packages[$id] | reference), dependsOn: ([$nodes[$id] | linked[] | $packages[.] | reference] | unique)}
    ] | sort_by(.ref)
  }
