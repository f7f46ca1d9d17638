package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/cli/printer"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

func newAuth(f *factory) *cobra.Command {
	return group("auth", "Ask who you are and what you may do", newCanI(f), newWhoAmI(f))
}

// review asks the server about the caller.
func (f *factory) review(ctx context.Context, r *v1.ReviewRequest) (*v1.ReviewResponse, error) {
	ctx, cl, err := f.begin(ctx, "Asked", "asked with orchctl")
	if err != nil {
		return nil, err
	}
	answer, err := cl.Identity().Review(ctx, r)
	return answer, api.FromStatus(err)
}

func newCanI(f *factory) *cobra.Command {
	var (
		sub        string
		everywhere bool
		quiet      bool
		list       bool
		noHeaders  bool
	)
	c := &cobra.Command{
		Use: "can-i VERB [TYPE | TYPE/NAME | NONRESOURCEURL]", Short: "Check whether an action is allowed", Args: cobra.RangeArgs(0, 3),
		Long: "Check whether an action is allowed.\n\nVERB is get, list, watch, create, update, patch, delete or any other. The exit\ncode is 0 for yes and 1 for no.",
		Example: "  orchctl auth can-i create pods --all-namespaces\n  orchctl auth can-i get pods --subresource=log\n" +
			"  orchctl auth can-i get secret/db -n webflix\n  orchctl auth can-i --list -n webflix",
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case list && (everywhere || sub != "" || quiet):
				return errors.New("list option can't be specified with neither quiet, all-namespaces nor subresource options")
			case list:
				return f.listRules(c.Context(), noHeaders)
			case len(args) < 2:
				return errors.New("you must specify two arguments: verb resource or verb resource/resourceName")
			}
			r := &v1.ReviewRequest{Verb: args[0], Subresource: sub}
			what, name, _ := strings.Cut(args[1], "/")
			switch {
			case what == "" && len(args) == 2 && sub == "":
				r.NonResourceUrl = args[1]
			case what == "":
				return fmt.Errorf("--subresource and NAME can not be used with NonResourceURL")
			default:
				if len(args) == 3 {
					name = args[2]
				}
				r.Name, r.Resource = name, what
				if !everywhere {
					r.Namespace = f.ns()
				}
				f.resourceOf(r, quiet)
			}
			answer, err := f.review(c.Context(), r)
			if err != nil {
				return err
			}
			if !quiet {
				text := "yes"
				if !answer.GetAllowed() {
					text = "no"
					if why := answer.GetReason(); why != "" {
						text += " - " + why
					}
				}
				fmt.Fprintln(f.Out, text)
			}
			if !answer.GetAllowed() {
				return &exitError{code: 1}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&list, "list", false, "print all that you may do in the namespace")
	c.Flags().BoolVar(&noHeaders, "no-headers", false, "with --list, leave the header out")
	c.Flags().StringVar(&sub, "subresource", "", "such as log, exec or status")
	c.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "in all namespaces")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing; the exit code says it")
	return c
}

// listRules prints what the user may do in the namespace.
func (f *factory) listRules(ctx context.Context, noHeaders bool) error {
	answer, err := f.review(ctx, &v1.ReviewRequest{Rules: true, Namespace: f.ns()})
	if err != nil {
		return err
	}
	if why := answer.GetReason(); why != "" {
		fmt.Fprintf(f.Err, "warning: the list may be incomplete: %s\n", why)
	}
	rows := ruleRows(answer.GetRules())
	if !noHeaders {
		rows = slices.Insert(rows, 0, ruleHeader)
	}
	return printer.Rows(f.Out, rows)
}

// resourceOf makes of the user's word the group and resource that it means.
func (f *factory) resourceOf(r *v1.ReviewRequest, quiet bool) {
	if r.GetResource() == "*" {
		r.Group = "*"
		return
	}
	k := api.KindByResource(r.GetResource())
	if k == nil {
		if !quiet {
			fmt.Fprintf(f.Err, "Warning: the server doesn't have a resource type '%s'\n", r.GetResource())
		}
		r.Resource, r.Group, _ = strings.Cut(r.GetResource(), ".")
		return
	}
	r.Group, r.Resource = k.Group, k.Plural
	if !k.Namespaced {
		if r.Namespace = ""; k.Name == "Namespace" && r.GetVerb() != "create" {
			r.Namespace = r.GetName() // it is one of its own objects
		}
		if !quiet {
			group := ""
			if k.Group != "" {
				group = fmt.Sprintf(" in group '%s'", k.Group)
			}
			fmt.Fprintf(f.Err, "Warning: resource '%s' is not namespace scoped%s\n\n", k.Plural, group)
		}
	}
}

func newWhoAmI(f *factory) *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Print who the API server takes you for", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			answer, err := f.review(c.Context(), &v1.ReviewRequest{})
			if err != nil {
				return err
			}
			return printer.Rows(f.Out, [][]string{
				{"ATTRIBUTE", "VALUE"}, {"Username", answer.GetUser()}, {"Groups", "[" + strings.Join(answer.GetGroups(), " ") + "]"},
			})
		},
	}
}

func newCreateUser(f *factory) *cobra.Command {
	var (
		groups []string
		file   string
	)
	c := &cobra.Command{
		Use: "user NAME [--group=GROUP]", Short: "Make a certificate for a user, and a file with a context for it", Args: cobra.ExactArgs(1),
		Long: "Make a key and a certificate for a user of this cluster, and write both into a file\nwith a context, for --kubeconfig. " +
			"The user may do nothing until a role is bound to\nthe name or one of the groups. Whoever has the file is that user: hand it over in\nprivate.",
		Example: "  orchctl create user alice --group=students\n  orchctl create rolebinding students --clusterrole=edit --group=students -n webflix\n" +
			"  orchctl --kubeconfig alice.config get pods -n webflix",
		RunE: func(c *cobra.Command, args []string) error {
			user, file := args[0], cmp.Or(file, args[0]+".config")
			if strings.ContainsAny(user, "/\x00") && file == user+".config" {
				return fmt.Errorf("the name %q cannot be that of a file: give one with --file", user)
			}
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there already: remove it, or give another --file", file)
			}
			return f.createUser(c.Context(), user, groups, file)
		},
	}
	c.Flags().StringArrayVar(&groups, "group", nil, "a group of the user; may be given several times")
	c.Flags().StringVar(&file, "file", "", "where to write the context (default NAME.config)")
	return c
}

func (f *factory) createUser(ctx context.Context, user string, groups []string, file string) error {
	t, err := f.target()
	if err != nil {
		return err
	}
	ctx, cl, err := f.begin(ctx, "CreateUser", "created with orchctl")
	if err != nil {
		return err
	}
	var authority []byte
	pair, err := identity.NewPair(ctx, "", func(ctx context.Context, request []byte) ([]byte, error) {
		answer, err := cl.Identity().Sign(ctx, &v1.SignRequest{User: user, Groups: groups, Request: request})
		authority = answer.GetAuthority()
		return answer.GetCertificate(), api.FromStatus(err)
	})
	if err != nil {
		return err
	}
	certificate, key, err := pair.PEM()
	if err != nil {
		return err
	}
	cfg := &config.Config{APIVersion: "v1", Kind: "Config", CurrentContext: user}
	cfg.Set(user, config.Cluster{Server: t.Server, CertificateAuthorityData: identity.EncodeCertificate(authority)},
		config.User{ClientCertificateData: certificate, ClientKeyData: key})
	cfg.Context(user).Namespace = f.namespace
	if err := cfg.Save(file); err != nil {
		return err
	}
	fmt.Fprintf(f.Out, "user/%s created\n", user)
	fmt.Fprintf(f.Err, "The context is in %s, for --kubeconfig. It is good until %s.\n", file, pair.Certificate().NotAfter.Format("2006-01-02"))
	return nil
}
