// A control server built on go-control-plane, told by HTTP what to serve: the proxy under test talks to an
// implementation that others wrote.
//
//	PUT /snapshot  {"version": "1", "clusters": [...], "endpoints": [...], "routes": [...], "listeners": [...]}
//	GET /requests  what the proxy has sent, one JSON object per request
package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"sync"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
)

const node = "test"

type snapshot struct {
	Version   string            `json:"version"`
	Clusters  []json.RawMessage `json:"clusters"`
	Endpoints []json.RawMessage `json:"endpoints"`
	Routes    []json.RawMessage `json:"routes"`
	Listeners []json.RawMessage `json:"listeners"`
}

type request struct {
	Type  string `json:"type"`
	Nonce string `json:"nonce"`
	Error string `json:"error"`
}

func parse(raw []json.RawMessage, empty func() types.Resource) ([]types.Resource, error) {
	var parsed []types.Resource
	for _, one := range raw {
		message := empty()
		if err := protojson.Unmarshal(one, message); err != nil {
			return nil, err
		}
		parsed = append(parsed, message)
	}
	return parsed, nil
}

func main() {
	xds := flag.String("xds", "127.0.0.1:0", "where proxies connect")
	control := flag.String("control", "127.0.0.1:0", "where commands come in")
	flag.Parse()

	var lock sync.Mutex
	var requests []request
	callbacks := server.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, message *discovery.DeltaDiscoveryRequest) error {
			lock.Lock()
			defer lock.Unlock()
			requests = append(requests, request{message.TypeUrl, message.ResponseNonce, message.GetErrorDetail().GetMessage()})
			return nil
		},
	}
	snapshots := cache.NewSnapshotCache(false, cache.IDHash{}, nil)
	grpcServer := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), snapshots, callbacks))
	socket, err := net.Listen("tcp", *xds)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(grpcServer.Serve(socket)) }()

	http.HandleFunc("/snapshot", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var wanted snapshot
		if err := json.Unmarshal(body, &wanted); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		all := map[resource.Type][]types.Resource{}
		for _, kind := range []struct {
			url   string
			raw   []json.RawMessage
			empty func() types.Resource
		}{
			{resource.ClusterType, wanted.Clusters, func() types.Resource { return &cluster.Cluster{} }},
			{resource.EndpointType, wanted.Endpoints, func() types.Resource { return &endpoint.ClusterLoadAssignment{} }},
			{resource.RouteType, wanted.Routes, func() types.Resource { return &route.RouteConfiguration{} }},
			{resource.ListenerType, wanted.Listeners, func() types.Resource { return &listener.Listener{} }},
		} {
			parsed, err := parse(kind.raw, kind.empty)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			all[kind.url] = parsed
		}
		made, err := cache.NewSnapshot(wanted.Version, all)
		if err == nil {
			err = snapshots.SetSnapshot(context.Background(), node, made)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	http.HandleFunc("/requests", func(w http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		_ = json.NewEncoder(w).Encode(requests)
	})
	log.Fatal(http.ListenAndServe(*control, nil))
}
